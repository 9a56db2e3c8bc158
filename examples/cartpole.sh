#!/bin/sh
# CartPole-v1 solved by the three commands, one after the other: SEED=2 examples/cartpole.sh models/cartpole
set -eu
policy=$(dirname "$0")/cartpole.py
model=${1:-models/cartpole}
seed=${SEED:-1}

onstream es init "$policy" "$model"
until onstream es evaluate "$policy" "$model" --target 475; do
    onstream es sample "$policy" "$model" --episodes 8 --seed "$seed"
    onstream es update "$model"
done
