#!/usr/bin/env python3
"""Times our kernels beside what a user would pick instead, on one GPU and in one run, and prints a table of ratios.

    python3 benches/peers/peers.py --binary target/release/deps/kernels-<hash>

The cases are those of benches/cases.json. For each case every contender, ours among them, is run on the same inputs
and its result is compared with an fp32 reference; what disagrees is not timed. Then they are timed in turn, several
rounds of them, each run between two events after the L2 cache was written over. A figure is the median of all its
runs. Ours are run by the bench binary (`cargo bench --bench kernels --no-run` builds it), which is asked through
pipes and reads and writes tensors in files; it needs no Rust where it runs.

Contenders: cuBLAS, SDPA (flash and cuDNN) and torch.compile through PyTorch, FlexAttention, and TileGym's cuTile
kernels where its packages can be imported. One that cannot run has its reason in the JSON lines.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch

import contenders
from contenders import Case
from timing import Clock, relative_error

OURS = "tilewright"


class Server:
    """Our bench binary, asked line by line."""

    def __init__(self, binary, folder, settings):
        self.folder, self.settings = folder, settings
        self.process = subprocess.Popen([binary, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, case, inputs, output, runs):
        """Runs a kernel on `inputs` (name to file); its figures, and its output `output` as a flat tensor."""
        out_file = os.path.join(self.folder, "out.bin")
        request = {
            "kernel": case.kernel, "dtype": case.dtype, "sizes": case.sizes, "inputs": inputs,
            "outputs": {output: out_file}, "runs": runs, "set": self.settings.get(case.case, {}),
        }
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the bench binary ended with {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply, out_file

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Ours:
    """Our kernel as a contender: its tensors lie in files."""

    def __init__(self, server, case, prepared):
        self.server, self.case, self.prepared = server, case, prepared
        self.files, self.info = {}, {}
        for name, tensor in prepared.ours.items():
            path = os.path.join(server.folder, f"{name}.bin")
            tensor.contiguous().view(torch.uint8).cpu().numpy().tofile(path)
            self.files[name] = path

    def result(self):
        reply, path = self.server.ask(self.case, self.files, self.prepared.output, 0)
        self.info = {"config": reply["config"], "origin": reply["origin"]}
        dtype = self.prepared.reference_dtype
        return torch.frombuffer(bytearray(open(path, "rb").read()), dtype=dtype).cuda()

    def times(self, runs):
        reply, _ = self.server.ask(self.case, self.files, self.prepared.output, runs)
        return reply["times"]


class Torch:
    """A callable as a contender."""

    def __init__(self, clock, run):
        self.clock, self.run, self.info = clock, run, {}

    def result(self):
        return self.run()

    def times(self, runs):
        return self.clock.times(self.run, runs)


def measure(case, fields, options, clock, server):
    """Every contender's figure for a case, as rows."""
    prepared = contenders.prepare(case, options.peers)
    candidates = {name: Torch(clock, run) for name, run in prepared.peers.items()}
    rows = {name: {"note": why} for name, why in prepared.absent.items()}
    if server is not None:
        candidates[OURS] = Ours(server, case, prepared)
    ready, times = {}, {}
    for name, candidate in candidates.items():
        try:
            error = relative_error(candidate.result().flatten(), prepared.reference.flatten())
            row = {"error": float(f"{error:.2e}"), **candidate.info}
            if error <= prepared.tolerance:
                ready[name], times[name] = candidate, []
            else:
                row["note"] = f"not timed: its error is above {prepared.tolerance:.0e}"
        except Exception as problem:  # What cannot run is a row of the table.
            row = {"note": f"{type(problem).__name__}: {str(problem)[:300]}"}
        rows[name] = row
        torch.cuda.empty_cache()
    for _ in range(options.rounds):
        for name, candidate in ready.items():
            times[name] += candidate.times(options.runs)
    amount, scale, unit = (prepared.flops, 1e9, "TFLOP/s") if case.per == "flop" else (prepared.bytes, 1e6, "GB/s")
    for name, runs in times.items():
        ms = sorted(runs)[len(runs) // 2]
        rows[name] |= {"ms": round(ms, 5), "rate": round(amount / ms / scale, 1), "unit": unit}
    return [{"op": case.op, "case": case.case, "peer": name, **row, **fields} for name, row in rows.items()]


def copy_rate(clock, fields, mib=2048):
    """The rate of a copy within device memory, which streaming kernels of as many bytes cannot pass."""
    source = torch.empty(mib << 20, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times = sorted(clock.times(lambda: target.copy_(source), 30))
    ms = times[len(times) // 2]
    row = {"op": "copy", "case": f"{mib} MiB", "peer": "memcpy", "ms": round(ms, 5)}
    return row | {"rate": round(2 * source.numel() / ms / 1e6, 1), "unit": "GB/s"} | fields


def table(rows):
    """The figures in markdown: ours, the best other, and the ratio of the rates."""
    lines = ["| op | case | unit | ours | best other | ratio | others |", "|---|---|---|---|---|---|---|"]
    ratios = {}
    for op, case in dict.fromkeys((row["op"], row["case"]) for row in rows):
        here = [row for row in rows if (row["op"], row["case"]) == (op, case)]
        timed = {row["peer"]: row for row in here if "rate" in row}
        ours = timed.pop(OURS, None)
        others = sorted(timed.values(), key=lambda row: -row["rate"])
        ratio = ours["rate"] / others[0]["rate"] if ours and others else None
        if ratio:
            ratios.setdefault(op, []).append(ratio)
        unit = (ours or (others or [{"unit": ""}])[0])["unit"]
        best = f"{others[0]['peer']} {others[0]['rate']:.0f}" if others else ""
        rest = ", ".join(f"{row['peer']} {row['rate']:.0f}" for row in others[1:])
        cells = [op, case, unit, f"{ours['rate']:.0f}" if ours else "", best, f"{ratio:.2f}" if ratio else "", rest]
        lines.append("| " + " | ".join(cells) + " |")
    for op, all_ratios in ratios.items():
        mean = torch.tensor(all_ratios).log().mean().exp().item()
        lines.append(f"| {op} | geometric mean | | | | {mean:.2f} | |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="our bench binary; without it only the others are timed")
    parser.add_argument("--only", help="groups of cases, such as gemm,fmha; all without it")
    parser.add_argument("--cases", default="", help="only cases whose text contains this")
    parser.add_argument("--peers", default="torch,compile,flex,tilegym", help="which others; empty for none")
    parser.add_argument("--settings", help="a JSON file: by a case's text, what to set in our configuration")
    parser.add_argument("--rounds", type=int, default=3, help="times that every contender gets its turn")
    parser.add_argument("--runs", type=int, default=15, help="runs of a turn")
    parser.add_argument("--json", help="a file to which every figure is added as a line of JSON")
    parser.add_argument("--table", help="a file for the table")
    options = parser.parse_args()
    options.peers = set(options.peers.split(","))
    settings = json.load(open(options.settings)) if options.settings else {}
    if not torch.cuda.is_available():
        print("SKIPPED peers: PyTorch finds no GPU", file=sys.stderr)
        return
    torch.manual_seed(0)
    properties = torch.cuda.get_device_properties(0)
    fields = {"device": properties.name, "torch": torch.__version__}
    clock = Clock(2 * properties.L2_cache_size)
    rows = []

    def emit(row):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.json:
            with open(options.json, "a") as file:
                print(json.dumps(row), file=file)

    for mib in (2048, 128):
        emit(copy_rate(clock, fields, mib))
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cases.json")) as file:
        cases = [Case(**case) for case in json.load(file)]
    groups = options.only.split(",") if options.only else [case.op for case in cases]
    # Tensors go through memory where the system has a folder for that.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        server = Server(options.binary, folder, settings) if options.binary else None
        for case in cases:
            if case.op in groups and options.cases in case.case:
                for row in measure(case, fields, options, clock, server):
                    emit(row)
                torch.cuda.empty_cache()
        if server is not None:
            server.close()
    text = table(rows)
    print(text)
    if options.table:
        with open(options.table, "w") as file:
            print(text, file=file)


if __name__ == "__main__":
    main()
