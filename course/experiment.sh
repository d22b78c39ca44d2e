#!/usr/bin/env bash
# Make the models that files describe, with several seeds, and print their table:
# experiment.sh PYTHON DATA OUT TASKS "SEEDS" FILE ...
# A line of a file is a variant: NAME | options of mix.py | options of finetune_router.py. Without the latter the mixed
# model is not finetuned. Options are passed on as words, and nothing else in a line is executed.
# Models are named NAME_sSEED. What is there already is not made again, unless its line or the code has changed.
set -eo pipefail
python=$1 data=$2 out=$3 tasks=$4 seeds=$5
shift 5
# numbers that do not depend on the machine's cores or its GPU
export OMP_NUM_THREADS=1 TQDM_DISABLE=1
code=$(cat model.py mix.py finetune_router.py | cksum | cut -d ' ' -f 1)
recipe=(--data general=14,trivia=5,math=27,code=27,wiki=27 --lr 1e-3 --eval_every 50)
mkdir -p "$out"

run() {
  echo "$*"
  "$@" < /dev/null || {
    local code=$?
    if [ $code = 130 ]; then  # interrupted
      exit 130
    fi
    return $code
  }
}

make_model() {  # NAME SEED "options of mix.py" "options of finetune_router.py"
  local model=$out/$1_s$2.pt mixed mix finetune
  mixed=$out/mixed/$(cksum <<< "$3 $code" | cut -d ' ' -f 1)_s$2.pt
  if [ -f "$model" ] && [ "$(cat "$model.row" 2> /dev/null)" = "$3|$4|$code" ]; then
    return 0
  fi
  if [[ " $3" = *" --a"* ]]; then
    echo "--average makes a dense model; the table is about mixtures of experts" >&2
    return 1
  fi
  read -ra mix <<< "$3"
  read -ra finetune <<< "$4"
  if [ ! -f "$mixed" ]; then
    run "$python" mix.py data/start/{seed,math,code,wiki}.pt "${mix[@]}" --data_dir "$data" --seed "$2" \
      --out "$mixed" || return 1
  fi
  rm -f "$model" "${model%.pt}.progress"
  if [ -z "${finetune[*]}" ]; then
    cp "$mixed" "$model" || return 1
  else
    run "$python" finetune_router.py "${recipe[@]}" "${finetune[@]}" --init "$mixed" --data_dir "$data" \
      --seed "$2" --device cpu --out "$model" || return 1
  fi
  echo "$3|$4|$code" > "$model.row"
}

models=()
names=" "
for file in "$@"; do
  while IFS='|' read -r -u 3 name mix finetune || [ -n "$name" ]; do  # the last line may have no end
    name=$(tr -d ' \t' <<< "$name")
    if [ -z "$name" ] || [[ $name = \#* ]]; then
      continue
    fi
    if [[ ! $name =~ ^[A-Za-z0-9.-]+$ ]]; then
      echo "left out: $file, as the name $name has other signs than letters, digits, . and -" >&2
      continue
    fi
    while [[ $names = *" $name "* ]]; do
      echo "$file: the name $name is taken, so this row is called $name-2" >&2
      name=$name-2
    done
    names+="$name "
    made=()
    for seed in $seeds; do
      if ! make_model "$name" "$seed" "$mix" "$finetune"; then
        echo "left out: $file, $name, see above" >&2
        made=()
        break
      fi
      made+=("$out/${name}_s$seed.pt")
    done
    models+=("${made[@]}")
  done 3< <(tr -d '\r' < "$file")
done
if [ -z "${models[*]}" ]; then
  echo "no row is left" >&2
  exit 2
fi
run "$python" evaluate.py "${models[@]}" --data_dir "$data" --tasks "$tasks" --windows 50 --no_figures --device cpu \
  --out "$out"
"$python" -m course.table "$out/results.json" > "$out/table.md"
cat "$out/table.md"
