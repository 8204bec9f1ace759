#!/usr/bin/env python3
"""hob by the name of supervisord beside the Python program: the same configuration, one after the other, in one run.

  supervisord.py HOB [--theirs DIR] [--programs N] [--rounds N] [--only NAME,...] [--json]

HOB is the binary; DIR holds the Python supervisord and supervisorctl (default: where PATH finds them). Absolute times
hold only in the run they were measured in; the ratio in the last column is what counts: how many times better hob is.
"""
import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

CALL = "<?xml version='1.0'?><methodCall><methodName>{}</methodName><params>{}</params></methodCall>"


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__('localhost')
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Daemon:
    """One supervisord in a folder of its own."""

    def __init__(self, bin, programs):
        self.bin = bin
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix='svbench'))
        here = self.dir
        (here / 's.conf').write_text(
            f'[supervisord]\nlogfile={here}/s.log\npidfile={here}/s.pid\nchildlogdir={here}\nminfds=4096\n'
            f'[unix_http_server]\nfile={here}/s.sock\n[supervisorctl]\nserverurl=unix://{here}/s.sock\n'
            '[rpcinterface:supervisor]\n'
            'supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n' + programs)
        self.began = time.perf_counter()
        self.proc = subprocess.Popen([bin / 'supervisord', '-n', '-c', here / 's.conf'], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                self.rpc('supervisor.getState')
                break
            except OSError:
                assert self.proc.poll() is None, 'it does not start'
                time.sleep(0.0005)

    def rpc(self, method, params='', connection=None):
        connection = connection or Unix(str(self.dir / 's.sock'))
        connection.request('POST', '/RPC2', CALL.format(method, params), {'Content-Type': 'text/xml'})
        text = connection.getresponse().read().decode()
        assert '<fault>' not in text, text
        return text

    def states(self):
        return re.findall(r'<name>statename</name>\s*<value><string>(\w+)', self.rpc('supervisor.getAllProcessInfo'))

    def wait(self, state, count):
        while self.states().count(state) < count:
            time.sleep(0.002)

    def ctl(self, *args):
        done = subprocess.run([self.bin / 'supervisorctl', '-c', self.dir / 's.conf', *args], stdout=subprocess.PIPE)
        return done.stdout.decode()

    def family(self):
        """The daemon and what it needs beside its programs: hob's logger."""
        own = os.readlink(f'/proc/{self.proc.pid}/exe')
        pids = [self.proc.pid]
        for pid in pathlib.Path(f'/proc/{self.proc.pid}/task/{self.proc.pid}/children').read_text().split():
            try:
                if os.readlink(f'/proc/{pid}/exe') == own and 'python' not in own:
                    pids.append(int(pid))
            except OSError:
                pass
        return pids

    def pss(self):
        text = ''.join(pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text() for pid in self.family())
        return sum(map(int, re.findall(r'^Pss:\s+(\d+)', text, re.M))) / 1024

    def switches(self):
        text = ''.join(pathlib.Path(f'/proc/{pid}/status').read_text() for pid in self.family())
        return sum(map(int, re.findall(r'^voluntary_ctxt_switches:\s+(\d+)', text, re.M)))

    def end(self):
        began = time.perf_counter()
        self.proc.terminate()
        self.proc.wait()
        took = time.perf_counter() - began
        shutil.rmtree(self.dir, ignore_errors=True)
        return took


def sleepers(count, more='', **options):
    lines = ''.join(f'{key}={value}\n' for key, value in options.items())
    return ''.join(f'[program:p{n:03}]\ncommand=/bin/sleep 100000\nstartsecs=0\n{lines}{more}' for n in range(count))


def seconds(act):
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


WAIT = '<param><value><boolean>1</boolean></value></param>'


def boot(bin, count):
    """From exec to all of them RUNNING, in seconds."""
    daemon = Daemon(bin, sleepers(count))
    daemon.wait('RUNNING', count)
    took = time.perf_counter() - daemon.began
    return {'start of the daemon with all, s': took, 'shutdown of all, s': daemon.end()}


def start_stop(bin, count):
    daemon = Daemon(bin, sleepers(count, autostart='false'))
    started = seconds(lambda: daemon.rpc('supervisor.startAllProcesses', WAIT))
    stopped = seconds(lambda: daemon.rpc('supervisor.stopAllProcesses', WAIT))
    daemon.rpc('supervisor.startAllProcesses', WAIT)
    restarted = seconds(lambda: daemon.ctl('restart', 'all'))
    daemon.end()
    return {'start all, s': started, 'stop all, s': stopped, 'supervisorctl restart all, s': restarted}


def status(bin, count):
    daemon = Daemon(bin, sleepers(count))
    daemon.wait('RUNNING', count)
    took = statistics.median(seconds(lambda: daemon.ctl('status')) for _ in range(7))
    assert daemon.ctl('status').count('RUNNING') == count
    daemon.end()
    return {'supervisorctl status, s': took}


def calls(bin, count):
    daemon = Daemon(bin, sleepers(count))
    daemon.wait('RUNNING', count)
    found = {}
    one = '<param><value><string>p000</string></value></param>'
    for method, params in [('getState', ''), ('getProcessInfo', one), ('getAllProcessInfo', '')]:
        connection, done, began = Unix(str(daemon.dir / 's.sock')), 0, time.perf_counter()
        while time.perf_counter() - began < 2:
            daemon.rpc(f'supervisor.{method}', params, connection)
            done += 1
        found[f'{method}, calls/s'] = done / (time.perf_counter() - began)
    daemon.end()
    return found


def logs(bin, _count):
    """Through the log of one program, with rotation, until it is all in the files."""
    found = {}
    size = 200 << 20
    writers = [('8 KiB writes', f'head -c {size} /dev/zero'),
               ('100-byte lines', f"yes {'x' * 99} | stdbuf -oL head -c {size}")]
    for what, command in writers:
        daemon = Daemon(bin, f'[program:w]\ncommand=/bin/sh -c "{command}"\nstartsecs=0\nautorestart=false\nautostart=false\n'
                             'stdout_logfile=%(here)s/w.log\nstdout_logfile_maxbytes=50MB\n')
        written = lambda: sum(path.stat().st_size for path in daemon.dir.glob('w.log*'))
        began = time.perf_counter()
        daemon.rpc('supervisor.startProcess', '<param><value><string>w</string></value></param>'
                   '<param><value><boolean>0</boolean></value></param>')
        daemon.wait('EXITED', 1)
        last, until = -1, time.perf_counter() + 20
        while written() != size and time.perf_counter() < until:
            time.sleep(0.001)
        took = time.perf_counter() - began
        found[f'log, {what}, MB/s'] = size / took / 1e6
        found[f'log, {what}, bytes lost'] = size - written()
        daemon.end()
    return found


def rest(bin, count):
    daemon = Daemon(bin, sleepers(count))
    daemon.wait('RUNNING', count)
    time.sleep(4)
    before = daemon.switches()
    time.sleep(5)
    found = {'memory, MB PSS': daemon.pss(), 'wake-ups in 5 s': daemon.switches() - before}
    daemon.end()
    return found


MEASURES = [boot, start_stop, status, calls, logs, rest]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('hob', type=pathlib.Path)
    options.add_argument('--theirs', type=pathlib.Path)
    options.add_argument('--programs', type=int, default=100)
    options.add_argument('--rounds', type=int, default=3)
    options.add_argument('--only', default='')
    options.add_argument('--json', action='store_true')
    asked = options.parse_args()
    theirs = asked.theirs or pathlib.Path(shutil.which('supervisord')).parent
    links = pathlib.Path(tempfile.mkdtemp(prefix='svbench'))
    for name in ('supervisord', 'supervisorctl'):
        (links / name).symlink_to(asked.hob.resolve())
    only = asked.only.split(',') if asked.only else [measure.__name__ for measure in MEASURES]
    rows = {}
    for measure in MEASURES:
        if measure.__name__ not in only:
            continue
        for _ in range(asked.rounds):
            for side, bin in (('hob', links), ('python', theirs)):
                for what, value in measure(bin, asked.programs).items():
                    rows.setdefault(what, {}).setdefault(side, []).append(value)
    shutil.rmtree(links)
    table = []
    for what, sides in rows.items():
        ours, other = statistics.median(sides['hob']), statistics.median(sides['python'])
        is_rate = what.endswith('/s')
        ratio = None if min(ours, other) <= 0 else ours / other if is_rate else other / ours
        table.append({'what': what, 'hob': ours, 'python': other, 'ratio': ratio})
    if asked.json:
        print(json.dumps({'programs': asked.programs, 'rounds': asked.rounds, 'rows': table}, indent=1))
        return
    print(f'{asked.programs} programs, median of {asked.rounds}\n{"":38}{"hob":>12}{"python":>12}{"ratio":>9}')
    for row in table:
        ratio = '' if row['ratio'] is None else f"{row['ratio']:.1f}"
        print(f"{row['what']:38}{row['hob']:12.4g}{row['python']:12.4g}{ratio:>9}")


if __name__ == '__main__':
    main()
