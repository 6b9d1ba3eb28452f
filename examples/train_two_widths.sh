#!/bin/sh
# Trains an adapter for 8 bits and one for 4 on the same quantized model, then scores both.
# Usage: train_two_widths.sh MODEL DATA OUT [STEPS]
#   DATA: a directory with train.json and validation.json in SQuAD's form (assets/nano/data)
#   QALOF: the program, else the one in PATH
set -eu
[ $# -ge 3 ] || { echo "usage: train_two_widths.sh MODEL DATA OUT [STEPS]" >&2; exit 2; }
model=$1 data=$2 out=$3 steps=${4:-400}
qalof=${QALOF:-qalof}

"$qalof" train --method switch --bit_widths 8 4 --model_name_or_path "$model" \
  --train_file "$data/train.json" --max_steps "$steps" --learning_rate 5e-3 \
  --max_seq_length 256 --doc_stride 64 --output_dir "$out"
for bits in 8 4; do
  "$qalof" eval --task qa --model_name_or_path "$model" --adapter "$out" --precision "$bits" \
    --validation_file "$data/validation.json" --max_seq_length 256 --doc_stride 64
done
