"""Tokens per second and peak memory of scoring, side by side: ours, two usual ways, the bare forward pass.

    python -m benchmarks.scoring --shape smollm2-135m --rows 60 --data PATH...
    python -m benchmarks.scoring --model PATH --data PATH...

Without a checkpoint the model is built from the published sizes of its shape, with random weights, and a
tokenizer trained on the data. All ways read the same rows with the same tokens:

- loop: one row a call, all logits, log_softmax; loss, entropy and top-1, as published scorers do it
- batches: 8 rows a call in the order of the data, padded, with an attention mask, all logits, log_softmax
- batches of 32: the same, of 32 rows
- ours: `score_examples` with every output, rendering and tokenising included
- ours, 3 signals: the same with loss, entropy and top-1 only
- ours, compiled: as ours, with `model: {compile: true}`
- bare: body and output layer at the response positions of our batches and chunks, no reduction
- bare, full head: body and output layer at every position of our batches, no reduction

With `--threads N` the usual ways let torch use N threads for each operation, as it does by itself on N cores;
ours and the bare pass make N calls side by side, of one thread each, as a run does.

Each runs in a process of its own, in turns; the first turn warms up and is not counted. A token is one that
the model reads, without padding, which falls with the number of rows. Ways that find other losses fail. On
CUDA the rate of a large bfloat16 matrix product is measured first, and utilisation is 2 x parameters of the
blocks x tokens + 2 x output layer x response tokens, over it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from connectors.examples import EXAMPLE_SCHEMA
from connectors.inputs import InputSpec, find_files
from connectors.readers import read_examples
from scorers.base import ROW_OUTPUTS, TOKEN_OUTPUTS
from scorers.models.batching import pack
from scorers.models.forward import read
from scorers.models.layout import lay_out
from scorers.models.loading import LoadedModel, load_model
from scorers.models.scoring import one_torch_thread, score_examples
from scorers.models.settings import ModelSettings
from scorers.models.tokenising import TokenSequence, tokenise_rows

# hidden size, MLP, layers, heads, key-value heads, vocabulary, tied, size of a head
SHAPES = {
    "small": (256, 688, 4, 4, 4, 32_000, False, 64),
    "smollm2-135m": (576, 1536, 30, 9, 3, 49_152, True, 64),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 151_936, True, 64),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 128_256, True, 64),
    "qwen3-8b": (4096, 12_288, 36, 32, 8, 151_936, False, 128),
}
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # nats, of the mean over all rows
WAYS = (
    "loop", "batches", "batches of 32",
    "ours", "ours, 3 signals", "ours, compiled",
    "bare", "bare, full head",
)  # fmt: skip
THREE = ("loss", "entropy", "top1_agreement")


def main() -> None:
    """Runs the benchmark of the command line."""
    options = _options()
    if options.one:
        print(json.dumps(_run_one(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.arrow")
        _write_rows(rows, options)
        model = options.model or _build(options.shape, options.dtype, rows, Path(folder, "model"))
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
        for turn in range(options.repeats + 1):
            for way in options.ways:
                found = _in_own_process(way, model, rows, options)
                if turn:
                    runs[way].append(found)
                print(f"turn {turn}, {way}: {json.dumps(found)}", file=sys.stderr, flush=True)
    print(report(runs, options))
    if options.output:
        result = {"command": sys.argv, "machine": _machine(options), "runs": runs}
        options.output.write_text(json.dumps(result, indent=1), "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--model", help="folder of a model, instead of a shape")
    parser.add_argument("--data", nargs="+", required=True, help="files or folders of instruction data")
    parser.add_argument("--rows", type=int, default=60, help="drawn from the data, seed 0")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, for each way")
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--output", type=Path, help="JSON file for every run")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--rows-file", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write_rows(path: Path, options: argparse.Namespace) -> None:
    """A sample of the data, as an Arrow file."""
    rows = [
        item.row
        for place in options.data
        for file in find_files(InputSpec(path=str(place), source="data"), Path())
        for item in read_examples(file)
        if item.kind != "bad"
    ]
    order = np.random.default_rng(0).permutation(len(rows))[: options.rows]
    table = pa.Table.from_pylist([rows[at] for at in order], schema=EXAMPLE_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_rows(path: str) -> pa.RecordBatch:
    with pa.OSFile(path) as source:
        return pa.ipc.open_file(source).read_all().combine_chunks().to_batches()[0]


def _build(shape: str, dtype: str, rows: Path, folder: Path) -> str:
    """Writes a model of a shape with random weights, and a tokenizer trained on the rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    width, mlp, layers, heads, kv_heads, vocabulary, tied, head = SHAPES[shape]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, 32_000), special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    turns = _read_rows(str(rows)).column("messages").flatten().field("content").to_pylist()
    bpe.train_from_iterator(turns, trainer)
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=bpe, **tokens).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head, tie_word_embeddings=tied,
        max_position_embeddings=8192, dtype=dtype,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        LlamaForCausalLM(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    return str(folder)


def _in_own_process(way: str, model: str, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scoring", "--one", way, "--model", model]
    command += ["--rows-file", str(rows), "--data", "-", "--device", options.device, "--dtype", options.dtype]
    command += ["--max-tokens", str(options.max_tokens)]
    command += ["--threads", str(options.threads)]
    variables = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run_one(options: argparse.Namespace) -> dict[str, Any]:
    """Runs one way in this process."""
    calls = 1
    if options.one.startswith(("ours", "bare")) and options.device == "cpu":
        calls = options.threads
    torch.set_num_threads(options.threads // calls)
    settings = ModelSettings(
        path=options.model, device=options.device, dtype=options.dtype, max_tokens=options.max_tokens,
        compile=options.one == "ours, compiled",
    )  # fmt: skip
    began = time.perf_counter()
    model = load_model(settings)
    batch = _read_rows(options.rows_file)
    tokenised = tokenise_rows(
        model.renderer, batch.column("messages").to_pylist(), batch.column("tools").to_pylist(), False
    )
    rows = [row.conditional for row in tokenised if row.status == "ok" and row.conditional is not None]
    way = _WAYS[options.one]
    for few in (2, 1):  # the first call is slower, and a batch of one row is compiled apart
        way(model, batch.slice(0, few), rows[:few], calls)
    ready = time.perf_counter() - began
    peak = _peak_memory(options.device, reset=True)
    began, began_cpu = time.perf_counter(), time.process_time()
    losses = way(model, batch, rows, calls)
    if options.device == "cuda":
        torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    blocks = sum(weight.numel() for weight in model.network.body.parameters())
    blocks -= model.network.body.get_input_embeddings().weight.numel()
    tokens = sum(int(row.targets[-1]) for row in rows)
    responses = sum(len(row.targets) for row in rows)
    return {
        "tokens": tokens,
        "response_tokens": responses,
        "seconds": seconds,
        "cpu_s": cpu,
        "ready_s": ready,
        "peak_mb": _peak_memory(options.device),
        "peak_before_mb": peak,
        "flop": 2 * blocks * tokens + 2 * model.network.head.weight.numel() * responses,
        "mean_loss": None if losses is None else float(np.mean(losses)),
        "matmul_flop_s": _matmul_rate() if options.device == "cuda" else None,
    }


def _peak_memory(device: str, reset: bool = False) -> float:
    """Largest memory so far, MB: of the process, or of tensors on the device."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _matmul_rate() -> float:
    """Floating-point operations per second of a large bfloat16 matrix product, best of ten."""
    size = 8192
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    rates = []
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(5):
            a @ b
        torch.cuda.synchronize()
        rates.append(5 * 2 * size**3 / (time.perf_counter() - began))
    return max(rates)


Losses = list[float]
Way = Callable[[LoadedModel, pa.RecordBatch, Sequence[TokenSequence], int], Losses | None]


def _statistics(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Loss, entropy and top-1 agreement as they are usually computed; returns the loss."""
    logprobs = logits.float().log_softmax(dim=-1)
    loss = -logprobs.gather(-1, labels.unsqueeze(-1)).mean()
    (-(logprobs.exp() * logprobs).sum(dim=-1).mean()).item()
    (logits.argmax(dim=-1) == labels).float().mean().item()
    return float(loss.item())


@torch.inference_mode()
def _loop(model: LoadedModel, _: pa.RecordBatch, rows: Sequence[TokenSequence], calls: int) -> Losses:
    del calls
    network, losses = model.network, []
    for row in rows:
        ids = torch.from_numpy(row.ids).to(network.device)
        logits = network.logits(network.hidden_states(ids[None])[0])
        losses.append(_statistics(logits[row.targets - 1], ids[row.targets]))
    return losses


@torch.inference_mode()
def _batches(
    model: LoadedModel, _: pa.RecordBatch, rows: Sequence[TokenSequence], calls: int, size: int = 8
) -> Losses:
    del calls
    network, losses = model.network, []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        width = max(len(row.ids) for row in some)
        ids, mask = torch.zeros(2, len(some), width, dtype=torch.int64)
        for at, row in enumerate(some):
            ids[at, : len(row.ids)], mask[at, : len(row.ids)] = torch.from_numpy(row.ids), 1
        ids, mask = ids.to(network.device), mask.to(network.device)
        logits = network.logits(network.hidden_states(ids, attention_mask=mask))  # (B, T, V)
        logprobs = logits.float().log_softmax(dim=-1)
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
        top1 = logits.argmax(dim=-1)
        for at, row in enumerate(some):
            labels = ids[at, row.targets]
            losses.append(-logprobs[at, row.targets - 1, labels].mean().item())
            entropy[at, row.targets - 1].mean().item()
            (top1[at, row.targets - 1] == labels).float().mean().item()
    return losses


def _ours(model: LoadedModel, batch: pa.RecordBatch, rows: Sequence[TokenSequence], calls: int) -> Losses:
    del rows
    every = {*TOKEN_OUTPUTS, *ROW_OUTPUTS} - {"next_logprob", "grad_norm"}
    scores, _ = score_examples(model, batch, THREE, store_outputs=sorted(every), threads=calls)
    return [loss for loss in scores.column("loss").to_pylist() if loss is not None]


def _ours_with_three(
    model: LoadedModel, batch: pa.RecordBatch, rows: Sequence[TokenSequence], calls: int
) -> Losses:
    del rows
    scores, _ = score_examples(model, batch, THREE, threads=calls)
    return [loss for loss in scores.column("loss").to_pylist() if loss is not None]


def _bare(
    model: LoadedModel,
    _: pa.RecordBatch,
    rows: Sequence[TokenSequence],
    calls: int,
    full_head: bool = False,
) -> None:
    @torch.inference_mode()
    def run(group: Sequence[int]) -> None:
        network = model.network
        layout = lay_out([rows[at] for at in group], whole=False, share=False)
        states = read(network, layout)
        hidden = states.reshape(-1, states.shape[-1])
        if not full_head:
            hidden = hidden[torch.from_numpy(layout.sources).to(hidden.device)]
        for at in range(0, len(hidden), network.chunk_tokens):
            network.logits(hidden[at : at + network.chunk_tokens])

    with ThreadPoolExecutor(calls, initializer=one_torch_thread) as pool:
        list(pool.map(run, pack([int(row.targets[-1]) for row in rows], model.batch_tokens)))


_WAYS: dict[str, Way] = {
    "loop": _loop,
    "batches": _batches,
    "batches of 32": partial(_batches, size=32),
    "ours": _ours,
    "ours, 3 signals": _ours_with_three,
    "ours, compiled": _ours,
    "bare": _bare,
    "bare, full head": partial(_bare, full_head=True),
}


def report(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> str:
    """The table, the ratios, and whether all ways found the same loss."""
    what = options.model or options.shape
    first = next(iter(runs.values()))[0]
    lines = [
        f"{what}, {options.dtype} on {options.device}, {options.rows} rows, {first['tokens']:,} tokens, of "
        f"which {first['response_tokens']:,} are responses; {_machine(options)['processor']}, "
        f"{options.threads} threads, torch {torch.__version__}",
        "",
        "| way | tokens/s | slowest to fastest | peak MB | ready after s | utilisation |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    rates = {way: sorted(run["tokens"] / run["seconds"] for run in found) for way, found in runs.items()}
    for way, found in runs.items():
        use = [run["flop"] / run["seconds"] / run["matmul_flop_s"] for run in found if run["matmul_flop_s"]]
        median, peak = statistics.median(rates[way]), max(run["peak_mb"] for run in found)
        spread = f"{rates[way][0]:,.0f} to {rates[way][-1]:,.0f}"
        share = f"{statistics.median(use):.0%}" if use else ""
        ready = statistics.median(run["ready_s"] for run in found)
        lines.append(f"| {way} | {median:,.0f} | {spread} | {peak:,.0f} | {ready:.0f} | {share} |")
    lines.append("")
    for ours in ("ours", "ours, 3 signals", "ours, compiled"):
        for other in ("loop", "batches", "batches of 32", "bare", "bare, full head"):
            if runs.get(ours) and runs.get(other):
                pairs = [b["seconds"] / a["seconds"] for a, b in zip(runs[ours], runs[other], strict=True)]
                lines.append(f"{ours} / {other}: {statistics.median(pairs):.2f}")
    losses = {round(run["mean_loss"], 6) for found in runs.values() for run in found if run["mean_loss"]}
    apart = max(losses) - min(losses) if losses else 0.0
    lines.append(f"\nmean losses of the ways differ by at most {apart:.1e} nats")
    if apart > LOSS_TOLERANCE[options.dtype]:
        raise SystemExit("\n".join([*lines, "which is too much: something here computes something else"]))
    return "\n".join(lines)


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    if options.device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {"processor": name, "python": platform.python_version(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
