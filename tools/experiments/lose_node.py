#!/usr/bin/env python3
"""Loses one of two machines in the middle of a training run: does the other finish it?

Two network namespaces stand for machines. torchrun starts one process on each, which find each
other by its c10d rendezvous. After the first checkpoint every process of the second machine is
killed, or its link is taken away. The launcher on the first machine must start the run again
there alone, and it must end in the bytes of a run that nobody disturbed. Writes a JSON line for
each way of losing. Needs root, iproute2 and torchrun.

Usage: tools/experiments/lose_node.py [--build DIR] [--torchrun FILE] FILE
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from experiments.kill_ranks import digest  # noqa: E402
from shared.namespaces import address, kill, machines, unplug  # noqa: E402

WAIT_SECONDS = 240


def training(build, output):
    data = ROOT / "assets/nano"
    flags = f"""--model_name_or_path {data}/model --train_file {data}/data/train.json
        --method switch --bit_widths 8 4 --max_steps 200 --lora_r 4 --warmup_steps 5
        --per_device_train_batch_size 2 --gradient_accumulation_steps 2 --threads 1
        --save_steps 20 --ddp_timeout 15 --output_dir {output}"""
    return [str(build / "qalof-train"), "train", *flags.split()]


def launch(options, names, number, output, log):
    words = ["ip", "netns", "exec", names[number], str(options.torchrun), "--nnodes", "1:2"]
    words += [
        "--local-addr",
        address(number),
        "--nproc_per_node",
        "1",
        "--max-restarts",
        "3",
        "--rdzv_backend",
        "c10d",
    ]
    # The first machine runs the rendezvous, and waits this long for a second one.
    words += ["--rdzv_endpoint", f"{address(0)}:29400", "--rdzv_id", "lose"]
    host = int(number == 0)  # torchrun compares names of machines, which namespaces share
    words += ["--rdzv_conf", f"is_host={host},last_call_timeout=5,join_timeout=120"]
    words += ["--no-python", *training(options.build, output)]
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)


def wait_for(condition):
    end = time.monotonic() + WAIT_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def lose(options, how, folder, expected):
    output = folder / how
    with machines(2) as names:
        logs = [folder / f"{how}-{name}.log" for name in names]
        launchers = [launch(options, names, number, output, log) for number, log in enumerate(logs)]
        wait_for(lambda: (output / "checkpoint-20").exists() or launchers[0].poll() is not None)
        processes = int("2 processes" in logs[0].read_text()) + 1
        lost = time.monotonic()
        if how == "killed":
            kill(1)
        else:
            unplug(1)
        try:
            code = launchers[0].wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = "still running"
        seconds = time.monotonic() - lost
        for number, launcher in enumerate(launchers):
            kill(number)  # the processes that torchrun started are no children of its group
            launcher.wait()
    text = logs[0].read_text()
    return {
        "lost": how,
        "processes": processes,
        "code": code,
        "seconds_to_end": round(seconds, 1),
        "resumed": "resuming from" in text,
        "same_bytes": digest(output) == expected,
        "good": processes == 2 and code == 0 and digest(output) == expected,
    }


def main():
    parser = argparse.ArgumentParser(usage=__doc__[__doc__.index("tools/experiments/lose") :])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--torchrun", type=pathlib.Path, default=ROOT / ".venv/bin/torchrun")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        words = training(options.build, folder / "whole")
        words[words.index("--gradient_accumulation_steps") + 1] = "4"  # alone: those of both
        subprocess.run(words, check=True, capture_output=True)
        expected = digest(folder / "whole")
        for how in ("killed", "unplugged"):
            rows.append(lose(options, how, folder, expected))
            print(json.dumps(rows[-1]), flush=True)
            if not rows[-1]["good"]:
                for log in sorted(folder.glob(f"{how}-*.log")):
                    print(log.read_text()[-4000:], file=sys.stderr)
    options.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 0 if all(row["good"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
