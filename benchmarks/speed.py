"""Measures the speed and memory of this package beside its peers, on the same work, one step of each in turn.

    python benchmarks/speed.py --output outputs/benchmarks
    python benchmarks/speed.py --only beam4-base curve-cores
    python benchmarks/speed.py --quick --rounds 1
    python benchmarks/speed.py --redraw --page docs/benchmarks.md

Peers: MarianMTModel, BART and ViT of transformers, torch.nn.Transformer, CTranslate2 in fp32 and int8 (the
extra [benchmarks]), and in training eole, if it is installed. Every peer has a process of its own. Before a
row is measured, the outputs are compared: peers with the same weights must give the same loss or the same
tokens. A step is measured again if its process waited for a CPU or others worked on its CPUs. Peak memory is
the process's high-water mark (VmHWM), its imports included. Writes results.json, report.md and two pictures.
docs/benchmarks.md says how to read them.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from suite import machine, report
from suite.rounds import OutputsDiffer, Suite, WorkerFailed
from suite.work import Curve, Row, curves, rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks"), help="folder (%(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help="rows and curves whose name contains one of these"
    )
    parser.add_argument("--peers", nargs="+", help="only these peers; the reference always takes part")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each peer in a row (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that everything runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device (%(default)s)")
    parser.add_argument(
        "--table",
        choices=["cpu", "cuda"],
        help="whose rows, by default those of --device: rehearses a GPU's on a CPU",
    )
    parser.add_argument(
        "--threads", type=int, default=len(machine.usable_cpus()), help="threads (%(default)s)"
    )
    parser.add_argument(
        "--page", type=Path, help="also insert the report between the two markers of this page"
    )
    parser.add_argument("--redraw", action="store_true", help="measure nothing: report an earlier run again")
    parser.add_argument("--list", action="store_true", help="print the names of rows and curves")
    return parser.parse_args(arguments)


def is_wanted(name: str, parts: list[str]) -> bool:
    return not parts or any(part in name for part in parts)


def small(item: Row | Curve) -> Row | Curve:
    """The same row, or the first two points of the curve, in the smallest size."""
    if isinstance(item, Row):
        return replace(item, work=item.work.smaller())
    return replace(item, points=tuple((number, work.smaller()) for number, work in item.points[:2]))


def selected(args: argparse.Namespace) -> list[Row | Curve]:
    """The rows and curves that the arguments ask for."""
    asked = rows(args.table or args.device, args.device, args.threads)
    found: list[Row | Curve] = [row for row in asked if is_wanted(row.name, args.only)]
    found += [curve for curve in curves(args.device, args.threads) if is_wanted(curve.name, args.only)]
    if args.peers:
        found = [
            replace(item, peers=tuple(name for name in item.peers if name in (*args.peers, item.reference)))
            for item in found
        ]
    return [small(item) for item in found] if args.quick else found


def without_folder(arguments: list[str]) -> list[str]:
    """The arguments that change what is measured; the name of a folder is nobody's business."""
    if "--output" not in arguments:
        return arguments
    at = arguments.index("--output")
    return arguments[:at] + arguments[at + 2 :]


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.redraw:
        results = json.loads((args.output / "results.json").read_text(encoding="utf-8"))
        report.write(results, args.output, args.page)
        return 0
    items = selected(args)
    if args.list:
        print("\n".join(item.name for item in items))
        return 0
    if not items:
        sys.exit(
            f"no row or curve has one of these in its name: {' '.join(args.only)}; --list prints the names"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    given = sys.argv[1:] if arguments is None else arguments
    results: dict = {
        "command": shlex.join(["python", "benchmarks/speed.py", *without_folder(given)]),
        "device": args.device,
        "machine": machine.describe(args.threads),
        "rows": [],
        "curves": [],
        "failed": {},
    }
    began = time.perf_counter()

    def tell(line: str) -> None:
        print(f"{(time.perf_counter() - began) / 60:5.1f} min  {line}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        suite = Suite(Path(folder), args.threads, args.device, args.rounds, min(3, args.rounds), tell)
        tell("matrix products")
        results["peak"] = suite.peak(0.02 if args.quick else 0.5)
        for item in items:
            try:
                if isinstance(item, Row):
                    results["rows"].append(suite.row(item))
                    for name, found in report.summarise(results["rows"][-1], results["peak"]).items():
                        tell(f"  {name}: {report.one_line(found, results['rows'][-1])}")
                else:
                    results["curves"].append(suite.curve(item))
            except (OutputsDiffer, WorkerFailed) as error:
                results["failed"][item.name] = str(error)
                tell(f"  not measured: {error}")
            report.save(results, args.output)
    report.write(results, args.output, args.page)
    tell(f"wrote {args.output / 'report.md'}")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
