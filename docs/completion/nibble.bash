# SPDX-License-Identifier: Apache-2.0
#
# Bash completion for nibble. What can be completed is read from the program's own --help, so that the two
# never differ.

_nibble_flags() { # COMMAND -> its long flags
    "$_nibble_program" "$1" --help 2>/dev/null | grep -e '^  *\(-[a-zA-Z?], \)\?--[a-z0-9-]*' |
        grep -o -e '^  *\(-[a-zA-Z?], \)\?--[a-z0-9-]*' -e ', --[a-z0-9-]*' | grep -o -e '--.*'
}

_nibble_values() { # COMMAND FLAG -> the values of a flag that takes one of a few (--flag=a|b|c, -f, --flag=a|b|c)
    "$_nibble_program" "$1" --help 2>/dev/null | grep -o -e "$2\(, --[a-z-]*\)\?=[a-z0-9_|-]*" | head -n 1 | cut -d= -f2 |
        grep '|' | tr '|' '\n'
}

_nibble() {
    local _nibble_program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
    local previous=${COMP_WORDS[COMP_CWORD-1]} values
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        values=$("$_nibble_program" --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$values --help --version" -- "$word")
        return
    fi
    if [ "$previous" = = ]; then # --flag=value is three words to bash
        previous=${COMP_WORDS[COMP_CWORD-2]}
    elif [ "$word" = = ]; then
        word=
    fi
    case $previous in
    -*)
        values=$(_nibble_values "$command" "$previous")
        if [ -n "$values" ]; then
            mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
            return
        fi
        ;;
    esac
    if [ "$command" = help ]; then
        values=$("$_nibble_program" --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
        return
    fi
    if [ "$command" = eval ] && [ "$COMP_CWORD" -eq 2 ]; then
        mapfile -t COMPREPLY < <(compgen -W "ppl kld --help" -- "$word")
        return
    fi
    case $word in
    -*) mapfile -t COMPREPLY < <(compgen -W "$(_nibble_flags "$command")" -- "$word") ;;
    *) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    esac
}

complete -o filenames -o bashdefault -F _nibble nibble
