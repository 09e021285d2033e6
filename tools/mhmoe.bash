# Completion of mhmoe's command lines in bash: the program itself says what a word may become; else it is a file.
_mhmoe() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("$1" "${COMP_WORDS[@]:1:COMP_CWORD-1}" --complete "${COMP_WORDS[COMP_CWORD]}" 2>/dev/null)
    if [[ ${COMPREPLY[0]-} == *= ]]; then
        compopt -o nospace # KEY=, and the value follows
    fi
}
complete -o default -F _mhmoe mhmoe
