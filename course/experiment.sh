#!/usr/bin/env bash
# Make the models that files describe, with several seeds, and print their table:
# experiment.sh PYTHON DATA OUT TASKS "SEEDS" FILE ...
# A line of a file is a variant: NAME | options of mix.py | options of finetune_router.py. Without the latter the mixed
# model is not trained. With --average it is dense, and train_expert.py trains it. All four models of data/start are
# mixed, unless a line of OUT/variants.txt begins its options of mix.py with names, such as seed seed math.
# Options are passed on as words, and nothing else in a line is executed.
# Models are named NAME_sSEED. What is there already is not made again, unless its line or the code has changed.
# The models of all seeds of a variant are made at the same time.
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
  "$@" < /dev/null
}

make_model() {  # NAME SEED "options of mix.py" "options of finetune_router.py"
  local model=$out/$1_s$2.pt script=finetune_router.py start=() mixed mix finetune
  mixed=$out/mixed/$(cksum <<< "$3 $code" | cut -d ' ' -f 1)_s$2.pt
  if [ -f "$model" ] && [ "$(cat "$model.row" 2> /dev/null)" = "$3|$4|$code" ]; then
    return 0
  fi
  if [[ " $3" = *" --a"* ]]; then
    script=train_expert.py
  fi
  read -ra mix <<< "$3"
  read -ra finetune <<< "$4"
  while [[ $file = "$out/variants.txt" && ${mix[0]} =~ ^(seed|math|code|wiki)$ ]]; do
    start+=("data/start/${mix[0]}.pt")
    mix=("${mix[@]:1}")
  done
  if [ ${#start[@]} = 0 ]; then
    start=(data/start/{seed,math,code,wiki}.pt)
  fi
  if [ ! -f "$mixed" ]; then
    run "$python" mix.py "${start[@]}" "${mix[@]}" --data_dir "$data" --seed "$2" --out "$mixed" || return 1
  fi
  rm -f "$model" "${model%.pt}.progress"
  if [ -z "${finetune[*]}" ]; then
    cp "$mixed" "$model" || return 1
  else
    run "$python" $script "${recipe[@]}" "${finetune[@]}" --init "$mixed" --data_dir "$data" \
      --seed "$2" --device cpu --out "$model" || return 1
  fi
  [ -f "$model" ] || return 1  # --help makes none
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
      echo "left out: $file; a name may have only letters, digits, . and -, but this one is $name" >&2
      continue
    fi
    while [[ $names = *" $name "* ]]; do
      echo "$file: the name $name is taken, so this row is called $name-2" >&2
      name=$name-2
    done
    names+="$name "
    made=()
    jobs=()
    failed=0
    for seed in $seeds; do
      (
        trap - INT  # or a program in the background would ignore Ctrl-C
        make_model "$name" "$seed" "$mix" "$finetune"
      ) &
      jobs+=($!)
      made+=("$out/${name}_s$seed.pt")
    done
    for job in "${jobs[@]}"; do
      wait "$job" || failed=$?
    done
    if [ $failed = 130 ]; then  # interrupted
      exit 130
    fi
    if [ $failed != 0 ]; then
      echo "left out: $file, $name, see above" >&2
      continue
    fi
    models+=("${made[@]}")
  done 3< <(LC_ALL=C tr -d '\r\357\273\277' < "$file")  # line ends of Windows, and a byte-order mark
done
if [ -z "${models[*]}" ]; then
  echo "no row is left" >&2
  exit 2
fi
run "$python" evaluate.py "${models[@]}" --data_dir "$data" --tasks "$tasks" --windows 50 --no_figures --device cpu \
  --out "$out"
"$python" -m course.table "$out/results.json" > "$out/table.md"
cat "$out/table.md"
