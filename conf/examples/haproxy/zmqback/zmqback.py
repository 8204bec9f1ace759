#!/usr/bin/env python3
# Tells everybody who connects which instance of which service it is.
import os, socketserver

me = os.environ["DOTCLOUD_SERVICE_NAME"] + "." + os.environ["DOTCLOUD_SERVICE_ID"] + "\n"


class Hello(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(me.encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


Server(("", int(os.environ["PORT_ZMQ"])), Hello).serve_forever()
