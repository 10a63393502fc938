"""demo_test.py DEMO CASE: runs the demo program from outside, and looks for what it leaves behind.

If these failed: the first thing a stranger runs would be wrong, or a machine on which it was killed would
keep processes, groups, mounts or folders of it.
"""
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE = 10  # seconds for the kernel and the guardian to finish what was asked of them


class Failure(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Failure(what)


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def eventually(condition, what):
    """Polls: what is waited for belongs to other processes, which tell nobody."""
    deadline = time.monotonic() + PATIENCE
    found = condition()
    while found:
        check(time.monotonic() < deadline, "%s after %d s: %s" % (what, PATIENCE, found))
        select.select([], [], [], 0.01)
        found = condition()


class Process:
    """A process that is not mistaken for a later one of the same number."""

    def __init__(self, pid):
        self.pid = pid
        self.name, self.parent, self.born = self.stat() or ("", 0, "")

    def stat(self):
        text = read("/proc/%d/stat" % self.pid)
        name, _, rest = text.partition("(")[2].rpartition(")")
        words = rest.split()
        # A zombie waits for whoever inherited it; nothing of it runs.
        return None if len(words) < 20 or words[0] in "ZX" else (name, int(words[1]), words[19])

    def lives(self):
        stat = self.stat()
        return stat is not None and stat[2] == self.born

    def __repr__(self):
        return "%s (%d)" % (self.name, self.pid)


def descendants(pid):
    everyone = [Process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    family = {pid}
    while True:
        more = {process.pid for process in everyone if process.parent in family} - family
        if not more:
            return [process for process in everyone if process.pid in family and process.born]
        family |= more


class Stage:
    """A runtime folder and an instance of the test's own, so that tests neither meet each other nor a host."""

    def __init__(self, demo):
        self.demo = demo
        self.folder = tempfile.mkdtemp(prefix="faaskit-test-")
        self.runtime = os.path.join(self.folder, "run")
        self.instance = "t-demo-%d" % os.getpid()
        self.json = os.path.join(self.folder, "figures.json")

    def command(self, *more):
        # Most of what can go wrong is the library's; `http` and its kin go through the door.
        way = () if "--http" in more else ("--library",)
        return [self.demo, "--instance", self.instance, "--runtime-dir", self.runtime, *way, *more]

    def run(self, *more):
        done = subprocess.run(self.command(*more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=150)
        print(done.stdout.decode("utf-8", "replace"))
        return done

    def start_and_wait_for_burst(self, *more):
        # Killed outright it cannot remove its own folder; so that goes with ours.
        demo = subprocess.Popen(self.command(*more), stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": self.folder})
        for line in demo.stdout:
            print(line.decode().rstrip())
            if b"under way" in line:
                return demo
        raise Failure("the demo ended with %d before its burst" % demo.wait())

    def groups(self):
        return [
            os.path.join(folder, name)
            for top in {line.split()[4] for line in mounts() if " - cgroup" in line}
            for folder, names, _ in os.walk(top)
            for name in names
            if name == "faaskit-" + self.instance
        ]

    def leftovers(self):
        found = self.groups()
        found += [line for line in mounts() if self.runtime in line or "faaskit-" + self.instance in line]
        found += [line for line in read("/proc/net/unix").splitlines() if self.runtime in line]
        if os.path.isdir(self.runtime):
            found += [name for name in os.listdir(self.runtime) if self.instance in name]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if "faaskit-" + self.instance in read("/proc/%s/cgroup" % pid) and Process(int(pid)).born:
                found.append("process " + pid)
        return found

    def check_clean(self, family=()):
        eventually(lambda: [process for process in family if process.lives()], "processes are left")
        eventually(self.leftovers, "something is left")


def mounts():
    return read("/proc/self/mountinfo").splitlines()


def check_figures(stage):
    with open(stage.json) as file:
        figures = json.load(file)
    check(set(figures) == {"functions", "spike", "errors"}, "keys: %s" % sorted(figures))
    check(figures["errors"] == 0, "errors: %s" % figures["errors"])
    keys = {"name", "cold", "warm", "stolen", "queued", "errors", "p50_wait_us", "p99_wait_us"}
    for function in figures["functions"]:
        check(set(function) == keys, "keys: %s" % sorted(function))
        check(all(isinstance(function[key], int) for key in keys - {"name"}), "not integers: %s" % function)
        check(function["cold"] > 0 and function["warm"] > 0, "no cold or no warm calls: %s" % function)
        check(function["p50_wait_us"] <= function["p99_wait_us"], "percentiles: %s" % function)
    check(len(figures["functions"]) == 4, "functions: %s" % figures)
    for kind in "cold", "warm", "stolen", "queued":
        check(sum(function[kind] for function in figures["functions"]) > 0, "none %s: %s" % (kind, figures))
    calls = sum(function[kind] for function in figures["functions"] for kind in ("cold", "warm", "stolen", "queued"))
    check(calls == 4 * 51 + 64, "calls: %d" % calls)
    return figures


def figures(stage):
    done = stage.run("--json", stage.json)
    check(done.returncode == 0, "exit status %d" % done.returncode)
    check(b"\x1b" not in done.stdout, "colours, though stdout is not a terminal")
    check_figures(stage)
    stage.check_clean()


def http(stage):
    # What ./dev demo does by default, with a spike that does not take so long.
    done = stage.run("--http", "--spike-seconds", "2", "--json", stage.json)
    check(done.returncode == 0, "exit status %d" % done.returncode)
    spike = check_figures(stage)["spike"]
    check([row["name"] for row in spike] == ["started on demand", "provisioned: 20"], "spike: %s" % spike)
    check(all(row["errors"] == 0 and row["calls"] >= 20 for row in spike), "spike: %s" % spike)
    check(b"function    start" in done.stdout and b"20 clients, after the step" in done.stdout, "a table is missing")
    stage.check_clean()


def http_killed_in_the_burst(stage):
    demo = stage.start_and_wait_for_burst("--http")
    family = descendants(demo.pid)
    check(any(process.name == "faaskit-mini" for process in family), "no server among %s" % family)
    demo.kill()
    demo.wait()
    # The server reads the end of its stdin, and stops by itself.
    stage.check_clean(family)


def http_terminated(stage):
    demo = stage.start_and_wait_for_burst("--http")
    family = descendants(demo.pid)
    demo.send_signal(signal.SIGTERM)
    demo.stdout.read()
    check(demo.wait() == 128 + signal.SIGTERM, "exit status %s" % demo.returncode)
    stage.check_clean(family)
    left = [name for name in os.listdir(stage.folder) if name.startswith("faaskit-demo-")]
    check(not left, "left in the temporary folder: %s" % left)


def own_text(stage):
    text = os.path.join(stage.folder, "text")
    with open(text, "wb") as file:
        file.write(b"One fish, two fish,\nred fish, blue fish.\n\xff\xfe\0" + b"Caf\xc3\xa9 and no newline " * 900)
    check(stage.run("--json", stage.json, "--input", text).returncode == 0, "it failed")
    check_figures(stage)
    with open(text, "wb") as file:
        file.write(b"x" * (5 * 1024 * 1024 + 1))
    check(stage.run("--input", text).returncode == 1, "an input over the limit was taken")
    check(stage.run("--input", text + "-not-there").returncode == 1, "an input that is not there was taken")


def own_image(stage):
    image = os.path.join(stage.folder, "image.pgm")
    with open(image, "wb") as file:
        file.write(b"P5 # a ramp\n256 3\n255\n" + bytes(range(256)) * 3)
    check(stage.run("--json", stage.json, "--input", image).returncode == 0, "it failed")
    check_figures(stage)
    with open(image, "wb") as file:
        file.write(b"P5 256 256 255\n" + bytes(256))
    check(stage.run("--input", image).returncode == 1, "an image without pixels was taken")


def killed_in_the_burst(stage):
    demo = stage.start_and_wait_for_burst()
    family = descendants(demo.pid)
    check(len(family) >= 4, "only %s were alive" % family)
    demo.kill()
    demo.wait()
    stage.check_clean(family)
    check(stage.run("--json", stage.json).returncode == 0, "the run after it failed")
    check_figures(stage)
    stage.check_clean()


def killed_with_its_guardian(stage):
    demo = stage.start_and_wait_for_burst()
    family = descendants(demo.pid)
    guardians = [process for process in family if process.name.startswith("faaskit-guard")]
    check(guardians, "no guardian among %s" % family)
    # The guardian first, stopped before it is killed, so that it cannot do its work in between.
    for guardian in guardians:
        os.kill(guardian.pid, signal.SIGSTOP)
    demo.kill()
    demo.wait()
    for guardian in guardians:
        os.kill(guardian.pid, signal.SIGKILL)
    check(stage.groups(), "nothing was left for the next run to sweep")
    check(stage.run("--json", stage.json).returncode == 0, "the run after it failed")
    check_figures(stage)
    stage.check_clean(family)


def terminated(stage):
    for number in signal.SIGTERM, signal.SIGINT:
        demo = stage.start_and_wait_for_burst()
        family = descendants(demo.pid)
        demo.send_signal(number)
        told = time.monotonic()
        demo.stdout.read()
        check(demo.wait() == 128 + number, "exit status %s" % demo.returncode)
        # Less than the deadline of its calls: they are cut short, not sat out.
        check(time.monotonic() - told < PATIENCE, "it took %.1f s to stop" % (time.monotonic() - told))
        stage.check_clean(family)


def private_checkout(stage):
    # Nobody but root may enter the folder that the program and its functions come from.
    checkout = os.path.join(stage.folder, "private")
    os.mkdir(checkout, 0o700)
    build = os.path.dirname(stage.demo)
    shutil.copy(os.path.join(build, "faaskit_demo"), checkout)
    shutil.copytree(os.path.join(build, "faaskit_demo.files"), os.path.join(checkout, "faaskit_demo.files"))
    stage.demo = os.path.join(checkout, "faaskit_demo")
    check(stage.run("--json", stage.json).returncode == 0, "it failed")
    check_figures(stage)
    stage.check_clean()


def examples(stage):
    # The README's program, and the one that composes the parts by hand; both from the root of the checkout.
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    expected = {
        "minimal_invoker": ["hello, world (cold)", "hello, again (warm)"],
        # Three at once: whichever returns first serves the others, or new ones do.
        "coroutine_host": ["hello, first (cold)", "hello, one", "hello, three", "hello, two"],
    }
    for name, lines in expected.items():
        program = os.path.join(os.path.dirname(stage.demo), name)
        done = subprocess.run([program], cwd=root, stdout=subprocess.PIPE, timeout=60)
        said = done.stdout.decode().splitlines()
        check(done.returncode == 0, "%s: exit status %d" % (name, done.returncode))
        check(len(said) == len(lines), "%s said %s" % (name, said))
        for line, begin in zip([said[0]] + sorted(said[1:]), lines):
            check(line.startswith(begin), "%s said %s" % (name, said))


def main():
    demo, case = sys.argv[1:]
    if os.geteuid() != 0:
        print("SKIPPED: needs root", file=sys.stderr)
        return 77
    stage = Stage(demo)
    try:
        globals()[case](stage)
        return 0
    except Failure as failure:
        print("FAILED: %s" % failure, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(stage.folder, ignore_errors=True)


sys.exit(main())
