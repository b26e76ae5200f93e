#!/bin/sh
# Pushes what has changed in $FILE as branch mtorl-versions, unless that branch proposes it already, and opens a request to merge it.
set -eu
cd "$WORK/repository"
git diff --quiet || git diff --unified=0 "$FILE"
branch=mtorl-versions
if git diff --quiet; then      # a proposal that is open would bring back what was withdrawn
  git push --quiet ${OPTIONS:-} origin --delete "$branch" 2>/dev/null || true
  echo "$FILE is what serves"; exit
fi
if git fetch --quiet --depth 1 origin "$branch" 2>/dev/null && git diff --quiet FETCH_HEAD -- "$FILE"; then
  echo "$branch proposes it already"; exit
fi
git checkout --quiet -B "$branch"
git -c user.name=mtorl-versions -c user.email=mtorl-versions@localhost commit --quiet --all --message "Serve the versions that the cluster serves"
# shellcheck disable=SC2086   (OPTIONS is a list of words)
git push --quiet --force ${OPTIONS:-} origin "$branch"
if [ -n "${PULLS:-}" ]; then
  answer=$(wget -q -O /dev/null --header "Authorization: Bearer $TOKEN" --header "Accept: application/vnd.github+json" \
    --post-data "{\"title\": \"Serve the versions that the cluster serves\", \"head\": \"$branch\", \"base\": \"$BASE\"}" "$PULLS" 2>&1) \
    || case $answer in
    *422*) ;;      # there is a request already, which has the new version now
    *)             # without the branch, the next run makes both again
      git push --quiet ${OPTIONS:-} origin --delete "$branch"
      echo "no request was opened, the next run tries again: $answer" >&2; exit 1 ;;
    esac
fi
echo "pushed $branch"
