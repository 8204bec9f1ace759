# Python's supervisorctl as a server: a JSON list of arguments a line in, [output, exit status] a line out. Starting
# the interpreter for each command would take most of the time of the tests.
import contextlib, io, json, sys

from supervisor import supervisorctl

for line in sys.stdin:
    asked = json.loads(line)
    out = io.StringIO()
    sys.argv = ['supervisorctl'] + asked['args']
    sys.stdin = io.StringIO(asked['stdin'])
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        # cmd and input() read and write these, not the real ones.
        try:
            supervisorctl.main(asked['args'])
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([out.getvalue(), status]), flush=True)
