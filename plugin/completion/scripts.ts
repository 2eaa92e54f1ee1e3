// Completion scripts for shells, and for kubectl itself: each asks the plugin, which answers in Cobra's protocol. Pure.

/** For `kubectl nasmig …`: kubectl looks for a program of this name, and its own completion does the rest. */
export const KUBECTL_COMPLETER = 'kubectl_complete-nasmig';

export const scripts = {
  kubectl: `#!/bin/sh
# ${KUBECTL_COMPLETER}: what kubectl's own completion runs for "kubectl nasmig". Put it into a folder of your PATH and make it executable.
exec kubectl-nasmig __complete "$@"
`,
  bash: `# bash completion of kubectl-nasmig. For "kubectl nasmig": kubectl-nasmig completion kubectl.
_kubectl_nasmig() {
  local line answer directive current
  current="\${COMP_WORDS[COMP_CWORD]}"
  answer="$(kubectl-nasmig __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" || return
  directive="\${answer##*:}"
  COMPREPLY=()
  while IFS= read -r line; do
    case "$line" in :[0-9]*|'') ;; *) COMPREPLY+=("\${line%%$'\\t'*}") ;; esac
  done <<<"$answer"
  if [ "$directive" = 0 ] && [ \${#COMPREPLY[@]} -eq 0 ]; then
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
  fi
}
complete -F _kubectl_nasmig kubectl-nasmig
`,
  zsh: `#compdef kubectl-nasmig
# zsh completion of kubectl-nasmig. For "kubectl nasmig": kubectl-nasmig completion kubectl.
_kubectl_nasmig() {
  local answer line directive
  local -a candidates
  answer="$(kubectl-nasmig __complete "\${(@)words[2,$CURRENT]}" 2>/dev/null)" || return
  directive="\${answer##*:}"
  for line in "\${(@f)answer}"; do
    case "$line" in
      :[0-9]*|'') ;;
      *$'\\t'*) candidates+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}") ;;
      *) candidates+=("\${line//:/\\\\:}") ;;
    esac
  done
  if (( \${#candidates} )); then
    _describe 'kubectl nasmig' candidates
  elif [[ "$directive" = 0 ]]; then
    _files
  fi
}
if [ "$funcstack[1]" = _kubectl_nasmig ]; then
  _kubectl_nasmig "$@"
else
  compdef _kubectl_nasmig kubectl-nasmig
fi
`,
  fish: `# fish completion of kubectl-nasmig. For "kubectl nasmig": kubectl-nasmig completion kubectl.
function __kubectl_nasmig
    set -l words (commandline -opc) (commandline -ct)
    kubectl-nasmig __complete $words[2..-1] 2>/dev/null | string match -v -r '^:[0-9]+$'
end
complete -c kubectl-nasmig -f -a '(__kubectl_nasmig)'
`,
} as const;
