"""Examples of every section of a recipe and of every selector, as the reference of recipes shows them."""

from __future__ import annotations

SECTIONS = {
    "": """\
name: my-set
seed: 0
inputs:
  - {path: data/*.jsonl, source: mine}
max_bad_fraction: 0.01
max_failed_fraction: 0.01
dedupe: {exact: true}
model: {path: HuggingFaceTB/SmolLM2-135M}
score: [loss]
select:
  - perplexity_band: {high: 0.8}
output: out/my-set
""",
    "inputs": """\
inputs:
  - {path: data/*.jsonl, source: mine}
  - {path: answers.csv, source: answers, format: question_answer, fields: {prompt: ask, response: reply}}
  - {path: pairs.parquet, format: preference, pairs: both}
  - {path: saved/dataset, split: train}
  - {dataset: openai/gsm8k, subset: main, split: train, revision: main, source: gsm8k}
""",
    "decontaminate": """\
decontaminate:
  against: [gsm8k, {name: humaneval, path: evals/HumanEval.jsonl.gz}]
  ngram: 13
  scope: both
  exact_prompt: true
  embedding: {model: {path: minishlab/potion-base-8M}, threshold: 0.95}
""",
    "decontaminate.against": """\
decontaminate:
  against:
    - mbpp
    - {name: own, path: evals/own.csv, fields: {prompt: question, response: solution}}
""",
    "decontaminate.embedding": """\
decontaminate:
  against: [mt_bench]
  embedding: {model: {path: minishlab/potion-base-8M, scope: prompt}, threshold: 0.95}
""",
    "dedupe": """\
dedupe:
  exact: true
  minhash: {threshold: 0.8, ngram: 5}
  semantic: {model: {path: minishlab/potion-base-8M}, threshold: 0.95}
  keep: [{source: [gold, web]}, {highest: rating}, longest_response]
  against: [out/last-month]
""",
    "dedupe.minhash": """\
dedupe:
  minhash: {threshold: 0.7, ngram: 8, unit: char, scope: response, permutations: 256}
""",
    "dedupe.semantic": """\
dedupe:
  semantic: {model: {path: minishlab/potion-base-8M}, threshold: 0.95, clusters: 100, which_to_keep: hard}
""",
    "dedupe.semantic.d4": """\
dedupe:
  semantic: {model: {path: minishlab/potion-base-8M}, d4: {keep: 0.5, dedupe_keep: 0.75, clusters: 50}}
""",
    "dedupe.keep": """\
dedupe:
  keep: [{source: [gold, web]}, {highest: rating}, longest_response]
""",
    "model": """\
model:
  path: HuggingFaceTB/SmolLM2-1.7B
  revision: main
  dtype: bfloat16
  device: auto
  max_tokens: 2048
  on_overflow: drop
  on_control_tokens: escape
  chat_template: auto
  loss_on: last
  score_end: true
  batch_tokens: 16384
  compile: true
score: [loss, entropy]
""",
    "models": """\
model: {path: TinyLlama/TinyLlama_v1.1}
models:
  reference: {path: out/reference}
score: [rho1]
""",
    "check": """\
check: {gold: answer, kind: math}
select:
  - pass_rate: {low: 0.1, high: 0.9}
""",
    "embed": """\
embed: {path: BAAI/bge-m3, scope: prompt, max_tokens: 1024, dtype: bfloat16, device: auto, batch_tokens: 8192}
select:
  - k_center: {keep_examples: 1000}
""",
    "store": """\
model: {path: HuggingFaceTB/SmolLM2-135M}
score: [loss]
store: [entropy, rank, hidden_mean]
""",
    "emit": """\
model: {path: HuggingFaceTB/SmolLM2-135M}
score: [loss]
emit: {tokens: always}
""",
}
"""By place in the recipe, "" for its top: texts that are recipes once `name` and `inputs` are added."""

STEPS = {
    "verdict": [
        "verdict: {keep_tokens: 20000000, token_keep: 0.7}",
        "verdict: {suspect: 0.08, keep_suspects: true}",
    ],
    "q_tuning": ["q_tuning: {keep: 0.25, token_keep: 0.7}", "q_tuning: {keep: 0.5, batch: 8}"],
    "rho1": ["rho1: {token_keep: 0.6, scope: all}"],
    "dft": ["dft:"],
    "fait": ["fait: {correct: extra.passed, similarity: 0.6, strength: 1.0}"],
    "glow": ["glow: {alpha: 1.0, beta: 20}"],
    "dart": [
        "dart: {mode: prop2diff, k: 192}",
        "dart: {mode: uniform, examples: 50000, correct: extra.label}",
    ],
    "pass_rate": ["pass_rate: {low: 0.1, high: 0.9, keep: correct}"],
    "grape": ["grape: {keep: 1, min_response_tokens: 8}"],
    "source_fit": ["source_fit: {keep_sources: 3, column: loss, order: lowest}"],
    "donod": ["donod: {keep: 0.2}"],
    "got_d": ["got_d: {target: data/task.jsonl, keep_examples: 20000}"],
    "kshot": ["kshot: {target: data/examples.jsonl, keep_examples: 5000, probe: nearest}"],
    "deita": ["deita: {column: extra.rating, max_similarity: 0.9, keep_examples: 6000}"],
    "k_center": ["k_center: {keep_examples: 1000}"],
    "facility_location": ["facility_location: {keep: 0.1}"],
    "semdedup": ["semdedup: {keep: 0.8, which_to_keep: hard}"],
    "d4": ["d4: {keep: 0.5, dedupe_keep: 0.75}"],
    "perplexity_band": [
        "perplexity_band: {high: 0.2, min_response_tokens: 16}",
        "perplexity_band: {low: 0.25, high: 0.75}",
    ],
    "top_k": [
        "top_k: {column: ifd_ppl, order: highest, keep: 0.1}",
        "top_k: {column: extra.rating, order: highest, keep_tokens: 2000000}",
    ],
    "mixture": [
        "mixture: {column: loss, order: lowest, keep: 0.5, floors: {maths: 0.2}, ceilings: {chat: 0.4}}"
    ],
    "stratified": [
        "stratified: {by: extra.topic, split: sqrt, keep_examples: 10000}",
        "stratified: {split: shares, shares: {maths: 2, chat: 1}, column: loss, order: lowest, keep: 0.5}",
    ],
    "threshold": [
        "threshold: {column: ifd_ppl, max: 1, include_max: false}",
        "threshold: {column: response_tokens, min: 8}",
    ],
    "random": ["random: {keep: 0.1}"],
}
"""By name of the selector: steps of `select`."""
