#!/usr/bin/env bash
# The runs of EXPERIMENT.md, three of each variant: experiment.sh PYTHON DATA EXPERIMENT STUDENT
# Models are named VARIANT_sSEED. What is there already is not made again.
set -eo pipefail
python=$1 data=$2 experiment=$3 student=$4
case $experiment in  # each variant: name, start of the routers, steps, alpha
  1) variants="random-0,random,0,0.01  random-50,random,50,0.01  random-200,random,200,0.01
               hidden-0,hidden,0,0.01  hidden-50,hidden,50,0.01  hidden-200,hidden,200,0.01" ;;
  2) variants="alpha-0,random,150,0  alpha-0.01,random,150,0.01  alpha-0.1,random,150,0.1  alpha-1,random,150,1" ;;
  3) variants="steps-25,random,25,0.01  steps-50,random,50,0.01  steps-100,random,100,0.01  steps-200,random,200,0.01" ;;
esac
if [ -z "$variants" ] || [ -z "$student" ]; then
  echo "name both: make experiment EXPERIMENT=2 STUDENT=12345" >&2
  exit 2
fi
out=out/experiment$experiment-$student
models=()

run() {
  echo "$*"
  TQDM_DISABLE=1 "$@"
}

for seed in "${student}1" "${student}2" "${student}3"; do
  for variant in $variants; do
    IFS=, read -r name start steps alpha <<< "$variant"
    start_options=()
    if [ "$start" = hidden ]; then
      start_options=(--router_data general,math,code,wiki --data_dir "$data")
    fi
    mixed=$out/$start-0_s$seed.pt
    model=$out/${name}_s$seed.pt
    models+=("$model")
    if [ ! -f "$mixed" ]; then
      run "$python" mix.py data/start/{seed,math,code,wiki}.pt "${start_options[@]}" --seed "$seed" \
        --out "$mixed"
    fi
    if [ ! -f "$model" ]; then
      run "$python" finetune_router.py --init "$mixed" --data general=14,trivia=5,math=27,code=27,wiki=27 \
        --data_dir "$data" --lr 1e-3 --steps "$steps" --alpha "$alpha" --eval_every 50 --seed "$seed" --device cpu \
        --out "$model"
    fi
  done
done
run "$python" evaluate.py "${models[@]}" --data_dir "$data" --tasks 200 --windows 50 --no_figures --device cpu \
  --out "$out"
run "$python" -m course.table "$out/results.json"
