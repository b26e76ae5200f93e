#!/bin/sh
# Clones the applied branch of the repository into the empty folder $WORK.
set -eu
git clone --quiet --depth 1 --branch "$BASE" "$REPOSITORY" "$WORK/repository"
