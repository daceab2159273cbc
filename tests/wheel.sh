#!/usr/bin/env bash
# What a user gets: the wheel alone, in an environment of its own, away from the checkout.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$checkout/.venv/bin/python" -m build --outdir "$work/dist" "$checkout"
"$checkout/.venv/bin/python" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --constraint "$checkout/constraints.txt" "$work"/dist/*.whl

cd "$work"
PATH=$work/env/bin:$PATH

# -I: neither this directory nor the environment adds to what can be imported.
python -I -c 'import gradguard, sys; assert gradguard.__file__.startswith(sys.prefix)'
gradguard --help
gradguard configs
gradguard train --model srn --clip-norm 5 --max-epochs 1
python -I - runs/*/version_0 <<'PY'
import sys
from gradguard.tensorboard.reader import read_run

records = read_run(sys.argv[1])
assert records.before.shape == (len(records.steps), len(records.names)), records
assert (records.total_after <= 5.0001).all(), records.total_after.max()
print("The wheel recorded", len(records.steps), "steps of", *records.names)
PY
