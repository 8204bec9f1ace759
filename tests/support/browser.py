# A real browser, told what to do over its DevTools protocol: a JSON list of steps on stdin, what each gave on stdout.
#   ["go", URL]  ["eval", EXPRESSION]  ["until", EXPRESSION]  ["shot", FILE]  ["dark", true]  ["size", W, H]  ["script", false]
#   ["login", USER, PASSWORD]
# The last line is what went wrong in the pages themselves: exceptions, and what their policy did not allow.
import base64, json, os, shutil, socket, struct, subprocess, sys, tempfile, time, urllib.request


class Page:
    def __init__(self, url):
        host, path = url[len('ws://'):].split('/', 1)
        name, port = host.split(':')
        self.socket = socket.create_connection((name, int(port)), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f'GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
                            f'Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n'.encode())
        head = b''
        while b'\r\n\r\n' not in head:
            head += self.exactly(1)
        self.number, self.troubles = 0, []

    def exactly(self, length):
        data = b''
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError('the browser has left')
            data += piece
        return data

    def receive(self):
        message = b''
        while True:
            first, length = self.exactly(2)
            length &= 127
            if length == 126:
                length, = struct.unpack('!H', self.exactly(2))
            elif length == 127:
                length, = struct.unpack('!Q', self.exactly(8))
            piece = self.exactly(length)
            if first & 15 in (8, 9, 10):
                continue
            message += piece
            if first & 128:
                return json.loads(message)

    def call(self, method, **params):
        self.number += 1
        data = json.dumps({'id': self.number, 'method': method, 'params': params}).encode()
        mask, length = os.urandom(4), len(data)
        if length < 126:
            head = struct.pack('!BB', 0x81, 0x80 | length)
        elif length < 65536:
            head = struct.pack('!BBH', 0x81, 0xfe, length)
        else:
            head = struct.pack('!BBQ', 0x81, 0xff, length)
        self.socket.sendall(head + mask + bytes(c ^ mask[i % 4] for i, c in enumerate(data)))
        while True:
            answer = self.receive()
            if answer.get('id') == self.number:
                return answer.get('result', answer)
            if answer.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
                self.troubles.append(json.dumps(answer['params'])[:500])
            if answer.get('method') == 'Page.loadEventFired':
                self.loaded = True

    def eval(self, expression):
        answer = self.call('Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True)
        return answer.get('result', {}).get('value', answer.get('exceptionDetails', {}).get('text'))

    def until(self, expression):
        deadline = time.monotonic() + 30
        while True:
            value = self.eval(expression)
            if value or time.monotonic() > deadline:
                return value
            time.sleep(0.05)


def main():
    profile = tempfile.mkdtemp()
    browser = subprocess.Popen(
        ['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars',
         '--no-first-run', '--disable-extensions', '--disable-background-networking', '--remote-debugging-port=0',
         '--user-data-dir=' + profile, 'about:blank'],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in browser.stderr:
            if 'DevTools listening' in line:
                place = line.split()[-1].split('/')[2]
                break
        tabs = json.load(urllib.request.urlopen(f'http://{place}/json'))
        page = Page(next(tab for tab in tabs if tab['type'] == 'page')['webSocketDebuggerUrl'])
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            page.call(domain + '.enable')
        for step, *args in json.load(sys.stdin):
            if step == 'go':
                page.call('Page.navigate', url=args[0])
                result = page.until('document.readyState === "complete" && location.href !== "about:blank"')
            elif step == 'eval':
                result = page.eval(args[0])
            elif step == 'until':
                result = page.until(args[0])
            elif step == 'shot':
                with open(args[0], 'wb') as f:
                    result = f.write(base64.b64decode(page.call('Page.captureScreenshot', format='png')['data']))
            elif step == 'dark':
                value = 'dark' if args[0] else 'light'
                page.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': value}])
                result = value
            elif step == 'size':
                page.call('Emulation.setDeviceMetricsOverride', width=args[0], height=args[1], deviceScaleFactor=1,
                          mobile=False)
                result = args
            elif step == 'script':
                page.call('Emulation.setScriptExecutionDisabled', value=not args[0])
                result = args[0]
            elif step == 'login':
                login = base64.b64encode(f'{args[0]}:{args[1]}'.encode()).decode()
                page.call('Network.setExtraHTTPHeaders', headers={'Authorization': 'Basic ' + login})
                result = True
            print(json.dumps(result), flush=True)
        print(json.dumps(page.troubles), flush=True)
    finally:
        browser.kill()
        browser.wait()
        shutil.rmtree(profile, ignore_errors=True)


main()
