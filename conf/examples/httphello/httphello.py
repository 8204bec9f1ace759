#!/usr/bin/env python3
"""Greets whoever asks over HTTP."""

import os
import signal
import socketserver
import sys
from wsgiref.simple_server import WSGIServer, make_server

GREETING = os.environ.get("GREETING", "Hello")


class Server(WSGIServer):
    def server_bind(self):
        # Without looking up the machine's own name, which may take long where there is no DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{GREETING} from {environ['PATH_INFO']}\n".encode()]


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    port = int(os.environ.get("PORT_WWW", 8080))
    with make_server("0.0.0.0", port, application, Server) as server:
        print(f"{GREETING.lower()}: listening on port {port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
