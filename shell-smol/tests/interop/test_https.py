"""HTTPS from a real nginx: whom `get` trusts and why not, ranges and resuming inside TLS, redirects, restarts."""

import shutil

import lab
from certs import DAY_S, Authority, openssl, self_signed
from lab import MIB, Process, folder, free_port, get, get_fails, kill_with, payload, same
from nginx import Nginx, bytes_sent

LENGTH = 48 * MIB + 4321
HERE = ("IP:127.0.0.1", "DNS:localhost")


def served(certificate, server="", http="", length=LENGTH):
    """nginx that speaks HTTPS, with one fresh file: (nginx, URL, SHA-256)."""
    nginx = Nginx(server, http, certificate)
    digest = payload(nginx.root / "file.bin", length)
    return nginx, f"{nginx.url}/file.bin", digest


def refused(certificate, trust, host="127.0.0.1"):
    """A `get` that does not trust this certificate: its message, once all that it must not do is checked."""
    nginx, url, _ = served(certificate, length=MIB)
    out = folder("out") / "file.bin"
    url = url.replace("127.0.0.1", host)
    failed = get_fails(3, url, "-o", out, env=trust, seconds=20)
    assert failed["kind"] == "unavailable" and url in failed["what"], failed
    assert not any(out.parent.iterdir()), "something was written"
    assert not nginx.requests(), "a request was sent over a connection that is not to be trusted"
    return failed["why"]


def test_whole_file_by_ranges_over_kept_connections():
    ours = Authority()
    nginx, url, digest = served(ours.certificate(*HERE))
    out = folder("out") / "file.bin"
    got = get(url, "--sha256", digest, "-o", out, env=ours.trust)
    same(out, digest)
    assert got["verified"] == "sha256" and got["received"]["origin"] == LENGTH, got
    asked = nginx.asked("/file.bin")
    assert all(line["status"] in (200, 206) and line["tls"] for line in asked), asked
    assert any(line["status"] == 206 for line in asked), asked
    connections = {line["connection"] for line in asked}
    assert len(connections) <= 8, f"{len(connections)} connections for {len(asked)} requests"
    assert bytes_sent(asked) <= 1.05 * LENGTH, f"{bytes_sent(asked)} bytes for {LENGTH}"


def test_tls_1_2_alone_and_1_3_alone():
    ours = Authority()
    certificate = ours.certificate(*HERE)
    nginx, url, digest = served(certificate, length=5 * MIB)
    for version in ("TLSv1.2", "TLSv1.3"):
        nginx.kill()
        nginx.config(f"ssl_protocols {version};")
        nginx.start()
        out = folder("out") / version
        get(url, "--sha256", digest, "-o", out, env=ours.trust)
        same(out, digest)
        assert nginx.asked("/file.bin")[-1]["tls"] == version


def test_by_name_and_by_address():
    """A certificate may be for a name, for an address, or for several of both."""
    ours = Authority()
    nginx, _, digest = served(ours.certificate(*HERE), length=MIB)
    for host in ("localhost", "127.0.0.1"):
        out = folder("out") / host
        get(f"https://{host}:{nginx.port}/file.bin", "--sha256", digest, "-o", out, env=ours.trust)
        same(out, digest)


def test_a_folder_of_trusted_authorities():
    """`SSL_CERT_DIR`, with the hashed names that openssl gives."""
    ours = Authority()
    _, url, digest = served(ours.certificate(*HERE), length=MIB)
    trusted = folder("trusted")
    shutil.copy(ours.file, trusted)
    openssl("rehash", trusted)
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out, env={"SSL_CERT_DIR": str(trusted)})
    same(out, digest)


def test_an_intermediate_authority():
    """The server sends its certificate and the intermediate one, and only the root is trusted."""
    root = Authority("root")
    middle = Authority("middle", parent=root)
    _, url, digest = served(middle.certificate(*HERE), length=MIB)
    out = folder("out") / "file.bin"
    get(url, "--sha256", digest, "-o", out, env=root.trust)
    same(out, digest)


def test_the_server_forgot_the_intermediate_authority():
    root = Authority("root")
    middle = Authority("middle", parent=root)
    why = refused(middle.certificate(*HERE, sends_parent=False), root.trust)
    assert "nobody this machine trusts" in why, why


def test_an_authority_nobody_trusts():
    why = refused(Authority("theirs").certificate(*HERE), Authority("ours").trust)
    assert "nobody this machine trusts" in why, why


def test_a_certificate_that_signed_itself():
    """For a server, it can be trusted as it is."""
    itself = self_signed(*HERE, authority=False)
    why = refused(itself, Authority().trust)
    assert "nobody this machine trusts" in why, why
    out = folder("other") / "file.bin"
    nginx, url, digest = served(itself, length=MIB)
    get(url, "--sha256", digest, "-o", out, env={"SSL_CERT_FILE": str(itself.chain)})
    same(out, digest)


def test_a_certificate_that_signed_itself_as_an_authority():
    """As `openssl req -x509` makes them: no server's certificate, trusted or not, and told as that."""
    itself = self_signed(*HERE, authority=True)
    for trust in ({"SSL_CERT_FILE": str(itself.chain)}, Authority().trust):
        why = refused(itself, trust)
        assert "authority" in why and "Other" not in why, why


def test_a_certificate_for_another_name():
    ours = Authority()
    why = refused(ours.certificate("DNS:files.example"), ours.trust, host="localhost")
    assert "files.example" in why, why


def test_a_certificate_that_has_expired():
    ours = Authority()
    why = refused(ours.certificate(*HERE, valid_s=(-9 * DAY_S, -DAY_S)), ours.trust)
    assert "has expired" in why, why


def test_a_certificate_that_is_not_valid_yet():
    ours = Authority()
    why = refused(ours.certificate(*HERE, valid_s=(DAY_S, 9 * DAY_S)), ours.trust)
    assert "not valid yet" in why and "clock" in why, why


def test_the_file_of_trusted_authorities_is_not_there():
    why = refused(Authority().certificate(*HERE), {"SSL_CERT_FILE": str(lab.SCRATCH / "missing.pem")})
    assert "SSL_CERT_FILE" in why and "missing.pem" in why, why


def test_another_url_whose_certificate_is_good():
    """The first URL's server is not to be trusted: the second one has the file."""
    ours = Authority()
    nginx, url, digest = served(ours.certificate(*HERE), length=5 * MIB)
    port = free_port()
    theirs = Authority("theirs").certificate(*HERE)
    nginx.kill()
    nginx.config(
        http=f"server {{ listen 127.0.0.1:{port} ssl; root {nginx.root};"
        f" ssl_certificate {theirs.chain}; ssl_certificate_key {theirs.key}; }}"
    )
    nginx.start()
    out = folder("out") / "file.bin"
    get(f"https://127.0.0.1:{port}/file.bin", url, "--sha256", digest, "-o", out, env=ours.trust)
    same(out, digest)


def test_http_where_https_is_spoken_and_the_other_way_round():
    ours = Authority()
    nginx, url, _ = served(ours.certificate(*HERE), length=MIB)
    port = free_port()
    nginx.kill()
    nginx.config(http=f"server {{ listen 127.0.0.1:{port}; root {nginx.root}; }}")
    nginx.start()
    out = folder("out") / "file.bin"
    failed = get_fails(3, f"https://127.0.0.1:{port}/file.bin", "-o", out, env=ours.trust, seconds=20)
    assert "does not speak TLS" in failed["why"], failed
    failed = get_fails(3, url.replace("https:", "http:"), "-o", out, env=ours.trust, seconds=20)
    assert "400" in failed["why"], failed
    assert not any(out.parent.iterdir())


def test_redirected_from_http_to_https_and_never_back():
    ours = Authority()
    nginx, url, digest = served(ours.certificate(*HERE))
    port = free_port()
    nginx.kill()
    nginx.config(
        server=f"location = /back {{ return 302 http://127.0.0.1:{port}/plain.bin; }}",
        http=f"server {{ listen 127.0.0.1:{port}; root {nginx.root};"
        f" location = /file.bin {{ return 301 https://localhost:{nginx.port}$request_uri; }} }}",
    )
    nginx.start()
    out = folder("out") / "file.bin"
    get(f"http://127.0.0.1:{port}/file.bin", "--sha256", digest, "-o", out, env=ours.trust)
    same(out, digest)
    assert all(line["tls"] for line in nginx.asked("/file.bin") if line["status"] == 206)
    (nginx.root / "plain.bin").write_bytes(b"not secret any more")
    failed = get_fails(3, url.replace("file.bin", "back"), "-o", folder("out") / "back", env=ours.trust, seconds=20)
    assert "https" in failed["why"] and "http" in failed["why"], failed
    assert not nginx.asked("/plain.bin"), "it was asked for without TLS"


def under_way(url, digest, authority):
    """A download some megabytes of which are here, and its output."""
    out = folder("out") / "file.bin"
    download = Process("get", url, "--sha256", digest, "-o", out, home="get", env=authority.trust)
    download.wait_for("progress", where=lambda line: line["done"] >= 8 * MIB)
    return download, out


def ends_well(download, out, digest):
    assert download.end() == 0, f"{download.lines[-2:]} {download.error()}"
    same(out, digest)
    got = download.last("got")
    assert got["received"]["origin"] + got["wasted"] <= LENGTH + 4 * MIB, got


def test_nginx_is_killed_in_mid_download_and_comes_back():
    ours = Authority()
    nginx, url, digest = served(ours.certificate(*HERE), "limit_rate 4m;")
    download, out = under_way(url, digest, ours)
    nginx.kill()
    assert download.child.poll() is None, f"the download was over: {download.lines[-1]}"
    nginx.config()
    nginx.start()
    ends_well(download, out, digest)


def test_nginx_reloads_in_mid_download():
    """SIGHUP, as after every renewal of a certificate: old workers finish what they do, nothing is asked twice."""
    ours = Authority()
    nginx, url, digest = served(ours.certificate(*HERE), "limit_rate 8m;")
    download, out = under_way(url, digest, ours)
    nginx.certificate = Authority("renewed", parent=ours).certificate(*HERE)
    nginx.config()
    nginx.child.send_signal(lab.signal.SIGHUP)
    ends_well(download, out, digest)


def test_nginx_comes_back_as_somebody_else():
    """A certificate that is not to be trusted, in mid-download: it stops, and goes on once that is mended."""
    ours = Authority()
    good, bad = ours.certificate(*HERE), Authority("theirs").certificate(*HERE)
    nginx, url, digest = served(good, "limit_rate 4m;")
    download, out = under_way(url, digest, ours)
    nginx.kill()
    nginx.certificate = bad
    nginx.config()
    nginx.start()
    assert download.end(20) == 3, f"{download.lines[-2:]} {download.error()}"
    assert "nobody this machine trusts" in download.last("failed")["why"], download.lines[-1]
    had = lab.recorded(out)
    assert had >= 7 * MIB, had
    nginx.kill()
    nginx.certificate = good
    nginx.config()
    nginx.start()
    got = get(url, "--sha256", digest, "-o", out, env=ours.trust)
    same(out, digest)
    assert got["resumed"] == had, (had, got)


def test_resumes_after_our_own_death():
    ours = Authority()
    nginx, url, digest = served(ours.certificate(*HERE), "limit_rate 4m;")
    out = folder("out") / "file.bin"
    first = Process("get", url, "--sha256", digest, "-o", out, home="get", env=ours.trust)
    had = kill_with(first, out, 12 * MIB)
    nginx.kill()
    (nginx.dir / "access.json").unlink(missing_ok=True)
    nginx.config()
    nginx.start()
    got = get(url, "--sha256", digest, "-o", out, env=ours.trust)
    same(out, digest)
    assert got["resumed"] == had, (had, got)
    again = nginx.asked("/file.bin")
    assert bytes_sent(again) <= LENGTH - had + MIB, (bytes_sent(again), got)
    assert all(line["if_range"] and line["tls"] for line in again if line["status"] == 206), again
    assert sorted(p.name for p in out.parent.iterdir()) == ["file.bin"], "leftovers beside the output"
