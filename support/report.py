"""The table and the report of evaluate.py. `results` is the part "models" of its results.json."""
import math
import os
import platform
import re
import subprocess
from pathlib import Path
from statistics import mean, stdev

import torch


def processor():
    """The model of the processor. Two that both have AVX-512 may train different weights."""
    try:
        about = Path("/proc/cpuinfo").read_text()  # of Linux, where platform.processor() is often empty
    except OSError:
        return platform.processor()
    fields = dict(re.findall(r"^(model name|model|stepping)\s*: (.*)", about, re.M))
    return ", ".join(f"{field} {value}" for field, value in fields.items())


def machine():
    """The machine and the commit that numbers were measured with."""
    top = Path(__file__).parent.parent
    commit = subprocess.run("git describe --always", shell=True, cwd=top, capture_output=True, text=True).stdout.strip()
    compare = "git diff --quiet HEAD -- '*.py' '*.mk' Makefile"
    if subprocess.run(compare, shell=True, cwd=top, capture_output=True).returncode == 1:  # 127 or 129 without git
        commit += "-dirty"
    cpu = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {processor()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_initialized() else None
    return {"commit": commit or "unknown", "cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__,
            "python": platform.python_version()}


def over_domains(values):
    """The mean of {domain: value}. `switch` is made of the other domains, so it counts only if there is no other.

    >>> over_domains({"math": 1.0, "code": 3.0, "switch": 100.0})
    2.0
    """
    return mean([value for domain, value in values.items() if domain != "switch"] or values.values())


def spread(values, scale=1.0, digits=1):
    """Mean ± sample standard deviation, as in `91.2 ± 0.4`; of a single value, the value alone."""
    text = f"{scale * mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * stdev(values):.{digits}f}"
    return text


def own_gates(routing, domain):
    """The share of a domain's gates that its own expert has, with all of its chunks; the mean over layers."""
    own = [i for i, expert in enumerate(routing["experts"]) if expert.split(".")[0] == domain]
    shares = []
    for gates in routing["share"][domain]:  # a layer's mean gates, (N,); those of Switch do not sum to 1
        shares.append(sum(gates[i] for i in own) / sum(gates))
    return mean(shares)


def markdown(head, rows):
    """A table in Markdown: names on the left, numbers on the right. Missing cells at the end of a row stay empty."""
    width = max(len(name) for name, *_ in [head, *rows])
    rule = ["-" * width, *["------:" for _ in head[1:]]]
    lines = []
    for row in [head, rule, *rows]:
        row = [*row] + [""] * (len(head) - len(row))
        padded = [f"{row[0]:<{width}}", *(f"{cell:>7}" for cell in row[1:])]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def table(results):
    """A table of the accuracy in % by domain and in the mean, the mean loss, the perplexity, and the costs."""
    columns = list(next(iter(results.values()))["accuracy"])  # none without tasks
    if columns:
        columns.append("mean")
    rows = []
    for name, r in results.items():
        row = [name, *(f"{100 * accuracy:.1f}" for accuracy in r["accuracy"].values())]
        if columns:
            row.append(f"{100 * over_domains(r['accuracy']):.1f}")
        loss = over_domains(r["loss"])
        row += [f"{loss:.3f}", f"{math.exp(loss):.2f}"]
        row += [f"{r[key] / 1e6:.2f}M" for key in ("params", "active_params", "tokens")]
        row += [f"{r['flops'] / 1e15:.3g}", f"{r['seconds']:.0f}", f"{r['elapsed']:.0f}"]
        rows.append(row)
    costs = ["params", "active", "tokens", "PFLOP", "seconds", "elapsed"]
    return markdown(["model", *columns, "loss", "ppl", *costs], rows)


def make_report(results, pictures):
    """The text of report.md. pictures: its lines that show figures and the page."""
    template = Path(__file__).with_suffix(".template").read_text(encoding="utf-8")
    tables = {}  # {measure: a table of models by domains}
    for key in ("loss", "bits_per_byte", "answer_loss"):
        domains = next(iter(results.values()))[key]
        rows = [[name, *(f"{value:.3f}" for value in r[key].values())] for name, r in results.items()]
        tables[key] = markdown(["model", *domains], rows) if domains else "(no domain has tasks)"
    where = ", ".join(f"{key} {value}" for key, value in machine().items() if value)
    return template.format(table=table(results), pictures="\n\n".join(pictures), machine=where, **tables)
