#!/usr/bin/env bash
set -e
apt-get update -qq && apt-get install -y -qq python3 python3-venv util-linux
useradd student
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install -q torch --index-url https://download.pytorch.org/whl/cpu
/autograder/venv/bin/pip install -q -r /autograder/source/requirements.txt
