"""What the benchmark scripts share: calls that answer in JSON, the machine in words, and a marked
section of a document.
"""

import datetime
import json
import shlex
import subprocess
import sys


def call(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(
            f"{shlex.join(command)}: exit status {done.returncode}: {done.stderr.strip()[-400:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def conditions(qalof, threads, rounds):
    info = call([qalof, "doctor", "--json"])
    return (
        f"{info['processor']}, instruction set {info['isa']}, {threads} threads of "
        f"{info['threads']}; {datetime.date.today()}; "
        f"median of {rounds} rounds."
    )


def without_paths(command, names):
    """The words of a command with what follows each flag of names replaced: paths are the run's
    own.
    """
    return [
        names.get(before, word) for before, word in zip(["", *command[:-1]], command, strict=True)
    ]


def write_section(path, begin, end, text):
    """Replaces what lies between the markers in path; prints where there is no path."""
    if path is None:
        print(text)
        return
    before, _, rest = path.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{path}: the markers of the section are missing")
    path.write_text(before + text + after)
