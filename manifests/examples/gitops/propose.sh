#!/bin/sh
# Pushes changes of $FILE to the branch mtorl-versions, unless the branch has them already, and opens a pull request.
set -eu
cd "$WORK/repository"
git diff --quiet || git diff --unified=0 "$FILE"
branch=mtorl-versions
if git diff --quiet; then      # nothing to propose: delete the branch, since an open proposal would be outdated
  git push --quiet ${OPTIONS:-} origin --delete "$branch" 2>/dev/null || true
  echo "$FILE is what serves"; exit
fi
before=      # fetched with its parent, because a shallow commit can't be pushed again
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
    *409*|*422*) echo "no pull request was opened: an open one has been updated, or the request is invalid: $answer" ;;
    *)             # restore the branch, so that the next run retries both steps and an open pull request stays open
      echo "no pull request was opened; the next run will retry: $answer" >&2
      git push --quiet --force ${OPTIONS:-} origin "$before:refs/heads/$branch"; exit 1 ;;
    esac
fi
echo "pushed $branch"
