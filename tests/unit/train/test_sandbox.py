"""The sandbox under attack: what a hostile program tries, and what it gets."""

from __future__ import annotations

import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mitai.errors import TrainError
from mitai.train.sandbox import Limits, ProgramError, Sandbox, box, confine, passes

SHORT = Limits(wall_s=10, cpu_s=1, memory_bytes=256 << 20)
PREPARE = "import ctypes, errno, gc, math, os, signal, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def attack(body: str, *arguments: object, limits: Limits = SHORT) -> object:
    """Run the lines of `body` as a function; return its value, or the name of what it raised."""
    lines = "".join(f"\n        {line}" for line in body.splitlines())
    program = PREPARE + (
        f"def attack(*given):\n    try:{lines}\n    except Exception as error:\n        return type(error).__name__\n"
    )
    with Sandbox(program, limits) as sandbox:
        return sandbox.call("attack", *arguments)


ANSWERS = 4  # where the child's answers leave it


def failure(body: str, *arguments: object, limits: Limits = SHORT) -> str:
    with pytest.raises(ProgramError) as caught:
        attack(body, *arguments, limits=limits)
    assert caught.value.code == "train.sandbox-program"
    return caught.value.reason


def test_a_program_computes():
    with Sandbox("import math\ndef area(r):\n    return {'area': math.pi * r * r, 'unit': None}") as sandbox:
        assert sandbox.call("area", 2) == {"area": 12.566370614359172, "unit": None}
        assert sandbox.call("area", 0) == {"area": 0.0, "unit": None}


@pytest.mark.parametrize(
    "body",
    [
        "return open('/etc/passwd').read()",
        "return os.listdir('/')",
        "return os.stat('/etc/passwd').st_size",
        "return open(f'/proc/{given[0]}/environ').read()",
        "return open(f'/proc/{given[0]}/mem', 'rb').read(1)",
        "return open('/proc/self/maps').read()",
        "return os.readlink('/proc/self/exe')",
        "open('/tmp/left-behind', 'w').write('x')",
        "os.mkdir('/tmp/left-behind')",
        "os.unlink('/etc/passwd')",
        "os.chdir('/')",
        "return os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.kill(given[0], signal.SIGKILL)",
        "os.kill(0, signal.SIGTERM)",
        "os.setsid()",
        "os.memfd_create('x')",
        "os.pipe()",
        "os.setuid(0)",
        "os.nice(-1)",
    ],
)
def test_what_reaches_outside_is_refused(body):
    assert attack(body, os.getpid()) == "PermissionError"


def test_no_thread_and_no_other_module():
    assert attack("import threading; threading.Thread(target=print).start()") == "RuntimeError"
    assert attack("import socket") == "ModuleNotFoundError"
    assert attack("import torch") == "ModuleNotFoundError"
    assert attack("import mitai") == "ModuleNotFoundError"


def test_every_system_call_that_is_not_in_the_table_is_refused():
    column = confine._machine()[0]
    allowed = [pair[column] for pair in confine.ALLOWED.values()]
    allowed += (
        [335, 336] if column == 0 else []
    )  # uretprobe, uprobe: the kernel lets them pass, and kills who calls them
    body = """let_through = []
for number in [n for n in range(620) if n not in given[0]] + [0x40000000 + n for n in range(600)]:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    if result != -1 or ctypes.get_errno() != errno.EPERM:
        let_through.append(number)
return let_through"""
    assert attack(body, allowed) == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other calling convention is x86's")
def test_a_call_by_the_other_architectures_convention_kills():
    body = """code = ctypes.create_string_buffer(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
page = ctypes.addressof(code) & ~4095
libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(8192), 7)
return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(code))()"""
    assert failure(body) == "ended"


def test_a_parent_can_not_be_traced_or_signalled_through_a_descriptor():
    by_name = {"ptrace": (101, 117), "process_vm_writev": (311, 271), "fcntl": (72, 25), "tgkill": (234, 131)}
    column = confine._machine()[0]
    body = """results = []
for number, arguments in given[0]:
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    results.append(ctypes.get_errno())
return results"""
    parent = os.getpid()
    calls = [
        (by_name["ptrace"][column], (16, parent, 0, 0)),  # PTRACE_ATTACH
        (by_name["process_vm_writev"][column], (parent, 0, 0, 0, 0, 0)),
        (by_name["fcntl"][column], (0, 8, parent)),  # F_SETOWN: SIGIO to whom
        (by_name["tgkill"][column], (parent, parent, 9)),
    ]
    assert attack(body, calls) == [1, 1, 1, 1]  # EPERM


def test_the_child_has_no_rights_and_no_secrets(monkeypatch):
    monkeypatch.setenv("MITAI_SECRET", "s3cret")
    with Sandbox("import os\ndef names():\n    return sorted(os.environ)") as sandbox:
        pid = sandbox._process.pid
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert "MITAI_SECRET" not in sandbox.call("names")
        if os.geteuid():  # the kernel shows them to nobody else, as it writes no core of this process
            with pytest.raises(PermissionError):
                Path(f"/proc/{pid}/environ").read_bytes()
            return
        descriptors = {name.name: str(name.readlink()) for name in Path(f"/proc/{pid}/fd").iterdir()}
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    pipes = [name for name, target in descriptors.items() if target.startswith("pipe:")]
    assert len(pipes) == 2
    assert {target for name, target in descriptors.items() if name not in pipes} == {"/dev/null"}
    assert environment == b"PYTHONHASHSEED=0\x00"


def test_inherited_descriptors_are_closed():
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # a careless worker
    os.set_blocking(reading, False)
    try:
        assert attack("os.write(given[0], b'forged')", writing) in {"OSError", None}
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("while True: pass", "cpu"),
        ("signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "cpu"),
        ("math.factorial(10**8)", "cpu"),  # no byte code in between at which Python could be interrupted
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1e6)", "time"),
        ("libc.pause()\ntime.sleep(1e6)", "time"),
        ("keep = [bytearray(1 << 20) for _ in range(10**6)]", "memory"),
        ("while True: os.write(given[0], b'x' * 65536)", "output"),
        ("return 'x' * (2 << 20)", "output"),
        ("os._exit(0)", "ended"),
        ("ctypes.string_at(0)", "ended"),
        ("return math.inf", "raised"),
        ("return {1, 2}", "raised"),
        ("return chr(0xd800)", "raised"),
        ("sys.exit(0)", "raised"),
    ],
)
def test_limits_hold(body, reason):
    program = PREPARE + "def attack(*given):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    limits = Limits(wall_s=1 if reason == "time" else 30, cpu_s=1, memory_bytes=256 << 20)
    begun = time.monotonic()
    with pytest.raises(ProgramError) as caught, Sandbox(program, limits) as sandbox:
        sandbox.call("attack", ANSWERS)
    assert caught.value.reason == reason
    assert time.monotonic() - begun < 20
    assert str(caught.value).endswith("[train.sandbox-program]")


def test_printing_goes_nowhere_and_costs_no_answer():
    assert attack("print('x' * (4 << 20)); sys.stderr.write('y'); return input()") == "EOFError"


def test_nothing_is_left_behind():
    with Sandbox("") as sandbox:
        pid = sandbox._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_ends_with_its_worker():
    reading, writing = os.pipe()
    worker = os.fork()
    if not worker:  # pragma: no cover - the other process
        sandbox = Sandbox("")
        os.write(writing, str(sandbox._process.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitpid(worker, 0)
    child = int(os.read(reading, 20))
    os.close(reading)
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its worker")


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "0000000000000000", "kind": "value", "value": 1}',
        '{"kind": "value", "value": 1}',
        '{"id": "", "kind": "ask", "value": ["f", "()"]}',
        "[" * 100_000,
        "confined",
    ],
)
def test_answers_that_were_not_asked_for_are_refused(line):
    assert failure("os.write(given[1], given[0].encode() + b'\\n')", line, ANSWERS) == "answer"


def test_what_a_program_asks_back_is_refused_unless_it_was_offered():
    body = "talks = [o for o in gc.get_objects() if type(o).__name__ == 'Conversation']\ntalks[0].ask('f', '()')"
    assert failure(body) == "answer"


def test_boxes_compute_alike():
    program = "def order():\n    return [hash('a'), list({'x', 'y', 'z'})]"
    with Sandbox(program) as first, Sandbox(program) as second:
        assert first.call("order") == second.call("order")


def test_without_a_filter_nothing_runs(monkeypatch, tmp_path):
    weak = tmp_path / "child.py"
    weak.write_text(Path(box._CHILD).read_text())
    source = Path(confine.__file__).read_text()
    (tmp_path / "confine.py").write_text(source.replace('"x86_64"', '"vax"').replace('"aarch64"', '"pdp11"'))
    monkeypatch.setattr(box, "_CHILD", weak)
    with pytest.raises(TrainError) as caught:
        Sandbox("raise SystemExit")
    assert caught.value.code == "train.sandbox-unavailable"


def test_without_an_interpreter_nothing_runs(monkeypatch):
    monkeypatch.setattr(box, "_PYTHON", "/nonexistent/python")
    with pytest.raises(TrainError) as caught:
        Sandbox("")
    assert caught.value.code == "train.sandbox-unavailable"


HUMAN_EVAL = """
def check(candidate):
    assert candidate([3, 1, 2]) == [1, 2, 3]
    assert candidate([]) == []
    assert candidate((2, 1)) == [1, 2]
"""


EQUAL = "class Yes{base}:\n    def __eq__(self, other):\n        return True\ndef order(x):\n    return Yes()"
CODE = "class Code:\n    def __repr__(self):\n        return 'exit(0)'\ndef order(x):\n    return Code()"
PATCH = "import builtins\nbuiltins.sorted = None\ncheck = lambda candidate: None\ndef order(x):\n    return 1"
FORGE = """
import os
import pickle
for descriptor in range(3, 10):
    try:
        os.write(descriptor, b'{"kind": "value", "value": null}\\n')
    except OSError:
        pass
def order(x):
    return sorted(x)
"""


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("def order(x):\n    return sorted(x)", True),
        ("def order(x):\n    return x", False),
        ("def order(x):\n    raise ValueError", False),
        ("def other(x):\n    return sorted(x)", False),
        ("def order(x)", False),
        ("import os\nos._exit(0)", False),
        ("raise SystemExit(0)", False),
        (EQUAL.format(base=""), False),  # an object that equals everything arrives as what its text says
        (EQUAL.format(base="(list)"), False),
        (CODE, False),
        (PATCH, False),  # what is patched in the program's box is not what judges
        ("def order(x):\n    return '(' * 100000", False),
        (FORGE, False),
    ],
)
def test_a_program_passes_by_its_results_alone(program, verdict):
    assert passes(program, HUMAN_EVAL, "order") is verdict


ROOT = """
def root(x, *, digits=2):
    if x < 0:
        raise ValueError('no')
    return round(x ** 0.5, digits)
"""
ROOT_TESTS = """
assert root(2) == 1.41
assert root(2, digits=3) == 1.414
try:
    root(-1)
except ValueError:
    pass
else:
    assert False
"""


def test_no_core_is_written_of_a_child():
    check = (
        "import ctypes; from mitai.train.sandbox import confine; confine.forbid_core_dumps();"
        "assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0"  # PR_GET_DUMPABLE
    )
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration"])
def test_a_program_does_not_end_the_loop_that_checks_it(name):
    tests = "for got, wanted in zip(map(f, [1, 2]), [1, 2]):\n    assert got == wanted\n"
    assert passes("def f(x):\n    return x", tests, "f")
    assert not passes(f"def f(x):\n    raise {name}", tests, "f")


def test_tests_in_asserts_and_expected_exceptions():
    assert passes(ROOT, ROOT_TESTS, "root")
    assert not passes(ROOT.replace("ValueError", "KeyError"), ROOT_TESTS, "root")


def test_a_program_that_hangs_in_one_call_fails_in_time():
    limits = Limits(wall_s=1, cpu_s=5)
    begun = time.monotonic()
    assert not passes("import time\ndef f():\n    time.sleep(100)", "assert f() is None", "f", limits)
    assert time.monotonic() - begun < 10


def test_large_questions_and_answers_pass():
    with Sandbox("def back(x):\n    return x", Limits(output_bytes=4 << 20)) as sandbox:
        assert sandbox.call("back", "é" * 1_000_000) == "é" * 1_000_000


def test_a_child_that_stops_reading_is_given_up():
    program = "import os, time\ndef leave():\n    os.close(3)\n    time.sleep(0.2)\n"
    with Sandbox(program, SHORT) as sandbox:
        sandbox.call("leave")
        with pytest.raises(ProgramError) as caught:
            sandbox.call("leave", "x" * (1 << 20))
    assert caught.value.reason == "ended"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.reason, str(copy)) == ("ended", str(caught.value))


def test_no_privilege_is_needed():
    """In a user namespace that maps nobody, a process has no capability over anything."""
    check = "from mitai.train.sandbox import passes; assert passes('def f(): return 1', 'assert f() == 1', 'f')"
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-U", "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no user namespace")
    done = subprocess.run([unshare, "-U", sys.executable, "-c", check], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
