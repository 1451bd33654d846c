package jsonscan

var SkipPlain = skipPlain
