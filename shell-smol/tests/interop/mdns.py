"""DNS-SD by the zeroconf package, in whatever network this is started in. Ends with its standard input.

    mdns.py browse TYPE           prints a JSON line for each service that comes (with its addresses) or goes
    mdns.py announce TYPE PORT    announces one at this host's addresses
"""

import ipaddress
import json
import socket
import subprocess
import sys

from zeroconf import ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf


def tell(**line):
    print(json.dumps(line), flush=True)


def changed(zeroconf, service_type, name, state_change):
    if state_change is ServiceStateChange.Removed:
        tell(gone=name)
        return
    info = zeroconf.get_service_info(service_type, name)
    if info:
        tell(found=name, host=info.server, addresses=info.parsed_addresses(), port=info.port)


def own_addresses():
    shown = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, check=True)
    addresses = [one["local"] for link in json.loads(shown.stdout) for one in link["addr_info"]]
    return [at for at in addresses if not ipaddress.ip_address(at).is_loopback]


def main(what, service_type, *port):
    zeroconf = Zeroconf(own_addresses())
    if what == "browse":
        ServiceBrowser(zeroconf, service_type, handlers=[changed])
    else:
        addresses = [socket.inet_aton(at) for at in own_addresses()]
        info = ServiceInfo(service_type, f"theirs.{service_type}", int(port[0]), addresses=addresses, server="theirs.local.")
        zeroconf.register_service(info)
        tell(announced=info.name)
    sys.stdin.read()
    zeroconf.close()


main(*sys.argv[1:])
