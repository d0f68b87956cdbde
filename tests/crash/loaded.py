"""Everything a run imports, loaded once for many runs, and set to small pieces.

A few hundred rows then make several units and files, as a large set does.
"""

from __future__ import annotations

import connectors.examples

ROWS = 64
connectors.examples.ROWS_PER_BATCH = ROWS  # before any module takes it from there

import apache_beam  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers.models.auto.modeling_auto  # noqa: E402
import transformers.models.auto.tokenization_auto  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402
import transformers.tokenization_utils_tokenizers  # noqa: E402, F401

import pipelines.check  # noqa: E402
import pipelines.dataset_card  # noqa: E402
import pipelines.decontaminate.stage  # noqa: E402
import pipelines.dedupe.stages  # noqa: E402
import pipelines.emit  # noqa: E402
import pipelines.report  # noqa: E402
import pipelines.run  # noqa: E402
import pipelines.score  # noqa: E402, F401

pipelines.emit.ROWS_PER_FILE = 2 * ROWS
pipelines.dedupe.stages.SPREAD_ROWS = ROWS
