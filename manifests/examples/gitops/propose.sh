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
before=      # with its parent: a shallow commit can not be pushed again
if git fetch --quiet --depth 2 origin "$branch" 2>/dev/null; then
  before=$(git rev-parse FETCH_HEAD)
  if git diff --quiet "$before" -- "$FILE"; then echo "$branch proposes it already"; exit; fi
fi
git checkout --quiet -B "$branch"
git -c user.name=mtorl-versions -c user.email=mtorl-versions@localhost commit --quiet --all --message "Serve the versions that the cluster serves"
# shellcheck disable=SC2086   (OPTIONS is a list of words)
git push --quiet --force ${OPTIONS:-} origin "$branch"
if [ -n "${PULLS:-}" ]; then
  answer=$(wget -q -O /dev/null --header "Authorization: Bearer $TOKEN" --header "Accept: application/vnd.github+json" \
    --post-data "{\"title\": \"Serve the versions that the cluster serves\", \"head\": \"$branch\", \"base\": \"$BASE\"}" "$PULLS" 2>&1) \
    || case $answer in
    *409*|*422*) echo "no request was opened: there is one, which has the new version now, or it is invalid: $answer" ;;
    *)             # the branch becomes what it was, so that the next run tries both again and an open request stays open
      echo "no request was opened, the next run tries again: $answer" >&2
      git push --quiet --force ${OPTIONS:-} origin "$before:refs/heads/$branch"; exit 1 ;;
    esac
fi
echo "pushed $branch"
