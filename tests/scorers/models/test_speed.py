from __future__ import annotations

import torch

from scorers.models.loading import LoadedModel
from scorers.models.scoring import score_examples
from scorers.models.speed import matmul_rate
from tests.scorers.toy_models import PAIRS, examples


def test_the_rate_of_matrix_products_is_measured_and_torch_left_as_it_was() -> None:
    before = torch.get_num_threads()
    assert matmul_rate("cpu", "float32", 1) > 1e8  # any machine does a tenth of a GFLOP/s
    assert torch.get_num_threads() == before


def test_operations_are_two_for_each_weight_that_a_token_passes(toy: LoadedModel) -> None:
    blocks = toy.network.body.layers[0]
    layer = sum(weight.numel() for weight in blocks.parameters())
    assert toy.block_weights == 2 * layer + 32  # two layers, and the last norm
    assert toy.head_weights == toy.network.head.weight.numel()
    scores, stats = score_examples(toy, examples(PAIRS), ["loss"])
    responses = sum(scores.column("response_tokens").to_pylist())
    assert stats["flop"] == 2 * (toy.block_weights * stats["tokens"] + toy.head_weights * responses)
