"""Through a real tinyproxy: forwarding, tunnels, which variable counts, passwords, refusals, deaths."""

import lab
from certs import Authority
from lab import MIB, Process, folder, free_port, get, get_fails, kill_with, payload, publish, same, start
from nginx import Nginx, bytes_sent
from proxy import Proxy

LENGTH = 48 * MIB + 4321
HERE = ("IP:127.0.0.1", "DNS:localhost")


def served(server="", http="", length=LENGTH, certificate=None):
    """nginx with one fresh file: (nginx, URL, SHA-256)."""
    nginx = Nginx(server, http, certificate)
    digest = payload(nginx.root / "file.bin", length)
    return nginx, f"{nginx.url}/file.bin", digest


def served_secure(server="", length=LENGTH):
    """The same over HTTPS: (nginx, URL, SHA-256, environment that trusts it)."""
    ours = Authority()
    return *served(server, "", length, ours.certificate(*HERE)), ours.trust


def nobody():
    """A proxy that is not there."""
    return f"http://127.0.0.1:{free_port()}"


def test_http_is_forwarded():
    """Ranges through the proxy: the same file, hardly a byte twice, nothing past the proxy."""
    nginx, url, digest = served()
    proxy = Proxy()
    out = folder("out") / "file.bin"
    got = get(url, "--sha256", digest, "-o", out, env={"http_proxy": proxy.url})
    same(out, digest)
    assert got["verified"] == "sha256" and got["received"]["origin"] == LENGTH, got
    asked = nginx.asked("/file.bin")
    assert any(line["status"] == 206 for line in asked), asked
    assert bytes_sent(asked) <= 1.05 * LENGTH, f"{bytes_sent(asked)} bytes for {LENGTH}"
    assert set(proxy.requests()) == {("GET", url)}, proxy.requests()
    assert len(proxy.requests()) >= len(asked), "somebody asked nginx without the proxy"


def test_https_goes_through_a_tunnel():
    nginx, url, digest, trust = served_secure()
    proxy = Proxy()
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out, env={"https_proxy": proxy.url, **trust})
    same(out, digest)
    asked = nginx.asked("/file.bin")
    assert any(line["status"] == 206 and line["tls"] for line in asked), asked
    assert bytes_sent(asked) <= 1.05 * LENGTH, f"{bytes_sent(asked)} bytes for {LENGTH}"
    assert set(proxy.requests()) == {("CONNECT", f"127.0.0.1:{nginx.port}")}, proxy.requests()
    connections = {line["connection"] for line in asked}
    assert len(connections) <= len(proxy.requests()) <= 8, "one tunnel for each connection, kept alive"


def test_a_name_is_for_the_proxy_to_find():
    """It is given the name, not an address."""
    nginx, url, digest = served(length=MIB)
    proxy = Proxy()
    url = url.replace("127.0.0.1", "localhost")
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out, env={"http_proxy": proxy.url})
    same(out, digest)
    assert set(proxy.requests()) == {("GET", url)}, proxy.requests()


def test_which_variables_count():
    """As for curl: lower case before upper case, no HTTP_PROXY in upper case, all_proxy for the rest."""
    nginx, plain, digest = served(length=MIB)
    ours = Authority()
    certificate, port = ours.certificate(*HERE), free_port()
    nginx.kill()
    nginx.config(
        http=f"server {{ listen 127.0.0.1:{port} ssl; root {nginx.root};"
        f" ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key}; }}"
    )
    nginx.start()
    secure = f"https://127.0.0.1:{port}/file.bin"
    proxy = Proxy()
    bare = proxy.addr
    for number, (url, used, env) in enumerate([
        (plain, True, {"http_proxy": proxy.url}),
        (plain, True, {"http_proxy": bare}),
        (plain, True, {"http_proxy": f"{proxy.url}/"}),
        (plain, False, {"HTTP_PROXY": nobody()}),
        (plain, False, {"https_proxy": nobody()}),
        (plain, True, {"all_proxy": proxy.url}),
        (plain, True, {"ALL_PROXY": proxy.url}),
        (plain, True, {"http_proxy": proxy.url, "all_proxy": nobody()}),
        (plain, False, {"http_proxy": ""}),
        (secure, True, {"https_proxy": proxy.url}),
        (secure, True, {"HTTPS_PROXY": proxy.url}),
        (secure, True, {"https_proxy": proxy.url, "HTTPS_PROXY": nobody()}),
        (secure, True, {"all_proxy": proxy.url}),
        (secure, False, {"http_proxy": nobody()}),
        (secure, True, {"https_proxy": bare}),
    ]):
        before = len(proxy.requests())
        out = folder("out") / f"{number}.bin"
        get(url, "--sha256", digest, "-o", out, env={**env, **ours.trust})
        same(out, digest)
        assert (len(proxy.requests()) > before) == used, (url, env, proxy.requests()[before:])


def test_no_proxy_leaves_hosts_out():
    nginx, plain, digest = served(length=MIB)
    proxy = Proxy()
    by_name = plain.replace("127.0.0.1", "localhost")
    for number, (url, used, excepted) in enumerate([
        (plain, False, {"no_proxy": "127.0.0.1"}),
        (plain, False, {"NO_PROXY": "127.0.0.1"}),
        (plain, False, {"no_proxy": "example.org, 127.0.0.0/8"}),
        (plain, False, {"no_proxy": f"127.0.0.1:{nginx.port}"}),
        (plain, False, {"no_proxy": "*"}),
        (by_name, False, {"no_proxy": "localhost"}),
        (by_name, False, {"no_proxy": ".localhost"}),
        (plain, True, {"no_proxy": "localhost"}),
        (plain, True, {"no_proxy": "10.0.0.0/8"}),
        (plain, True, {"no_proxy": "127.0.0.1:1"}),
        (by_name, True, {"no_proxy": "127.0.0.1"}),
    ]):
        before = len(proxy.requests())
        out = folder("out") / f"{number}.bin"
        get(url, "--sha256", digest, "-o", out, env={"http_proxy": proxy.url, **excepted})
        same(out, digest)
        assert (len(proxy.requests()) > before) == used, (url, excepted, proxy.requests()[before:])


def test_no_proxy_leaves_hosts_out_of_tunnels():
    _, url, digest, trust = served_secure(length=MIB)
    proxy = Proxy()
    env = {"https_proxy": proxy.url, "no_proxy": "127.0.0.1", **trust}
    get(url, "--sha256", digest, "-o", folder("out") / "file.bin", env=env)
    same(folder("out") / "file.bin", digest)
    assert proxy.requests() == [], proxy.requests()


def test_variables_that_make_no_sense():
    _, url, _ = served(length=MIB)
    for env in (
        {"http_proxy": "socks5://127.0.0.1:1080"},
        {"https_proxy": "https://127.0.0.1:3128"},
        {"http_proxy": "http://127.0.0.1:99999"},
        {"no_proxy": "10.0.0.0/99"},
    ):
        failed = get_fails(2, url, "-o", folder("out") / "x", env=env, seconds=20)
        (variable,) = env
        assert variable in failed["what"] + failed["why"], failed


def with_password(url, password):
    return url.replace("http://", f"http://office:{password}@")


def test_a_password_for_the_proxy():
    nginx, url, digest = served(length=5 * MIB)
    proxy = Proxy('BasicAuth office s3cret')
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out, env={"http_proxy": with_password(proxy.url, "s3cret")})
    same(out, digest)
    assert len(proxy.requests()) >= len(nginx.asked("/file.bin")) >= 1


def test_a_password_for_the_tunnel():
    nginx, url, digest, trust = served_secure(length=5 * MIB)
    proxy = Proxy('BasicAuth office s3cret')
    out = folder("out") / "file.bin"
    # an escaped character, as a password with @ needs it
    get(url, "--sha256", digest, "-o", out, env={"https_proxy": with_password(proxy.url, "s3%63ret"), **trust})
    same(out, digest)
    assert proxy.requests() and nginx.asked("/file.bin")


def refused_by_proxy(proxy, url, env, status):
    """A `get` whose proxy answers this: one clear message that names it, and never its password."""
    out = folder("out") / "file.bin"
    process = Process("get", url, "-o", out, home="get", env=env)
    assert process.end(20) == 3, (process.lines[-2:], process.error())
    failed = process.last("failed")
    assert failed["kind"] == "unavailable" and url in failed["what"], failed
    assert status in failed["why"] and proxy.addr in failed["why"], failed
    assert "_proxy" in failed["remedy"], failed
    assert "wr0ng" not in f"{process.lines}{process.error()}", "a password in a message"
    assert not any(out.parent.iterdir()), "something was written"
    return failed


def test_the_wrong_password_or_none():
    nginx, url, _ = served(length=MIB)
    proxy = Proxy('BasicAuth office s3cret')
    # tinyproxy says 401 to a wrong password, where 407 is meant
    refused_by_proxy(proxy, url, {"http_proxy": with_password(proxy.url, "wr0ng")}, "401")
    failed = refused_by_proxy(proxy, url, {"http_proxy": proxy.url}, "407")
    assert "the proxy answered" in failed["why"], failed
    assert not nginx.requests()


def test_the_wrong_password_or_none_for_the_tunnel():
    nginx, url, _, trust = served_secure(length=MIB)
    proxy = Proxy('BasicAuth office s3cret')
    refused_by_proxy(proxy, url, {"https_proxy": with_password(proxy.url, "wr0ng"), **trust}, "401")
    refused_by_proxy(proxy, url, {"https_proxy": proxy.url, **trust}, "407")
    assert not nginx.requests()


def filtering(*patterns):
    """A proxy that refuses what matches one of these."""
    refused = folder("filter") / "patterns"
    refused.write_text("".join(f"{pattern}\n" for pattern in patterns))
    return Proxy(f'Filter "{refused}"\nFilterURLs On')


def test_the_proxy_refuses_a_url():
    nginx, url, _ = served(length=MIB)
    proxy = filtering("file\\.bin")
    refused_by_proxy(proxy, url, {"http_proxy": proxy.url}, "403")
    assert not nginx.requests()


def test_the_proxy_refuses_a_tunnel():
    nginx, url, _, trust = served_secure(length=MIB)
    proxy = Proxy("ConnectPort 443")
    refused_by_proxy(proxy, url, {"https_proxy": proxy.url, **trust}, "403")
    assert not nginx.requests()


def test_the_proxy_refuses_one_of_two_urls():
    """The other one does."""
    nginx, url, digest = served(length=5 * MIB)
    (nginx.root / "bad").mkdir()
    proxy = filtering("/bad/")
    out = folder("out") / "file.bin"
    bad = url.replace("file.bin", "bad/file.bin")
    get(bad, url, "--sha256", digest, "-o", out, env={"http_proxy": proxy.url})
    same(out, digest)


def test_the_origin_refuses_behind_the_proxy():
    """Its answer is told as it is, with the proxy beside it: either may have said so."""
    _, url, _ = served(length=MIB)
    proxy = Proxy()
    refused_by_proxy(proxy, url.replace("file.bin", "missing"), {"http_proxy": proxy.url}, "404")


def test_a_certificate_is_judged_inside_the_tunnel():
    _, url, _, _ = served_secure(length=MIB)
    proxy = Proxy()
    env = {"https_proxy": proxy.url, **Authority("another").trust}
    refused_by_proxy(proxy, url, env, "nobody this machine trusts")


def test_nobody_listens_at_the_proxy():
    """It is the proxy that refuses the connection, not the origin, and the message says so."""
    _, url, digest, trust = served_secure(length=MIB)
    gone = free_port()
    for scheme, variable in (("http", "http_proxy"), ("https", "https_proxy")):
        env = {variable: f"http://127.0.0.1:{gone}", **trust}
        failed = get_fails(3, url.replace("https:", f"{scheme}:"), "-o", folder("out") / "x", env=env, seconds=55)
        assert "refused" in failed["why"] and f"127.0.0.1:{gone}" in failed["why"], failed
        assert "_proxy" in failed["remedy"], failed


def test_nobody_listens_at_the_origin_behind_the_proxy():
    proxy = Proxy()
    for scheme, variable in (("http", "http_proxy"), ("https", "https_proxy")):
        url = f"{scheme}://127.0.0.1:{free_port()}/file.bin"
        failed = get_fails(3, url, "-o", folder("out") / "x", env={variable: proxy.url}, seconds=55)
        assert proxy.addr in failed["why"], failed


def killed_and_back(nginx, url, digest, env, proxy):
    """The proxy dies in mid-download and comes back: what was here is not fetched again."""
    out = folder("out") / "file.bin"
    download = Process("get", url, "--sha256", digest, "-o", out, home="get", env=env)
    download.wait_for("progress", where=lambda line: line["done"] >= 8 * MIB)
    proxy.kill()
    assert download.child.poll() is None, f"the download was over: {download.lines[-1]}"
    before = len(proxy.requests())
    proxy.start()
    assert download.end() == 0, f"{download.lines[-2:]} {download.error()}"
    same(out, digest)
    got = download.last("got")
    assert got["received"]["origin"] + got["wasted"] <= LENGTH + 4 * MIB, got
    assert len(proxy.requests()) > before, "it went on without the proxy"


def test_the_proxy_is_killed_in_mid_download_and_comes_back():
    nginx, url, digest = served("limit_rate 4m;")
    proxy = Proxy()
    killed_and_back(nginx, url, digest, {"http_proxy": proxy.url}, proxy)


def test_the_proxy_of_a_tunnel_is_killed_in_mid_download_and_comes_back():
    nginx, url, digest, trust = served_secure("limit_rate 4m;")
    proxy = Proxy()
    killed_and_back(nginx, url, digest, {"https_proxy": proxy.url, **trust}, proxy)


@lab.limit(150)
def test_the_proxy_is_killed_in_mid_download_and_stays_away():
    """After a minute without a byte it gives up, says why, and the same command goes on later."""
    nginx, url, digest = served("limit_rate 4m;")
    proxy = Proxy()
    env = {"http_proxy": proxy.url}
    out = folder("out") / "file.bin"
    download = Process("get", url, "--sha256", digest, "-o", out, home="get", env=env)
    progress = download.wait_for("progress", where=lambda line: line["done"] >= 12 * MIB)
    proxy.kill()
    assert download.end(90) == 3, f"{download.lines[-2:]} {download.error()}"
    failed = download.last("failed")
    assert "refused" in failed["why"] and proxy.addr in failed["why"], failed
    assert "_proxy" in failed["remedy"], failed
    assert not out.exists()
    had = lab.recorded(out)
    assert had >= progress["done"] - MIB, (had, progress)
    proxy.start()
    got = get(url, "--sha256", digest, "-o", out, env=env)
    same(out, digest)
    assert got["resumed"] == had, (had, got)


def test_resumes_through_the_proxy_after_our_own_death():
    nginx, url, digest = served("limit_rate 4m;")
    proxy = Proxy()
    env = {"http_proxy": proxy.url}
    out = folder("out") / "file.bin"
    first = Process("get", url, "--sha256", digest, "-o", out, home="get", env=env)
    had = kill_with(first, out, 12 * MIB)
    nginx.kill()
    (nginx.dir / "access.json").unlink(missing_ok=True)
    nginx.config()
    nginx.start()
    got = get(url, "--sha256", digest, "-o", out, env=env)
    same(out, digest)
    assert got["resumed"] == had, (had, got)
    again = nginx.asked("/file.bin")
    assert bytes_sent(again) <= LENGTH - had + MIB, (bytes_sent(again), got)
    assert all(line["if_range"] for line in again if line["status"] == 206), again
    assert sorted(p.name for p in out.parent.iterdir()) == ["file.bin"], "leftovers beside the output"


def test_redirected_from_http_to_https_each_through_its_own_proxy():
    nginx, _, digest, trust = served_secure(length=5 * MIB)
    port = free_port()
    nginx.kill()
    nginx.config(http=f"server {{ listen 127.0.0.1:{port}; return 301 {nginx.url}$request_uri; }}")
    nginx.start()
    first, second = Proxy(name="first"), Proxy(name="second")
    url = f"http://127.0.0.1:{port}/file.bin"
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out, env={"http_proxy": first.url, "https_proxy": second.url, **trust})
    same(out, digest)
    assert set(first.requests()) == {("GET", url)}, first.requests()
    assert set(second.requests()) == {("CONNECT", f"127.0.0.1:{nginx.port}")}, second.requests()


def test_a_metainfo_file_comes_through_the_proxy_too():
    nginx, url, digest = served(length=5 * MIB)
    publish(nginx.root / "file.bin", "--url", url, "-o", nginx.root / "file.torrent", home="publish")
    proxy = Proxy()
    out = folder("out") / "file.bin"
    metainfo = f"{nginx.url}/file.torrent"
    got = get("--metainfo", metainfo, "-o", out, env={"http_proxy": proxy.url})
    same(out, digest)
    assert got["verified"] == "merkle", got
    assert set(proxy.requests()) == {("GET", metainfo), ("GET", url)}, proxy.requests()
    failed = get_fails(3, "--metainfo", metainfo, "-o", folder("out") / "x", env={"http_proxy": nobody()}, seconds=20)
    assert metainfo in failed["what"] and "cannot reach the proxy" in failed["why"], failed


def test_a_running_agent_uses_its_own_variables():
    """It does the work, so its environment decides, not that of the `get` that asks it."""
    _, url, digest = served(length=MIB)
    proxy = Proxy()
    start("agent", home="ours", env={"http_proxy": proxy.url})
    get(url, "--sha256", digest, "-o", folder("out") / "a", home="ours", env={"http_proxy": nobody()})
    same(folder("out") / "a", digest)
    assert proxy.requests(), "the agent did not use its proxy"
