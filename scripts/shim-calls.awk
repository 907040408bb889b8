# From lib/torch/shim.h one row per function, which lib/torch/load.c expands (without those in `own`, which it has itself):
#
#   QT_TENSOR(qt_matmul, (qt_tensor a, qt_tensor b, qt_tensor *out), (a, b, out))     may fail, and hands out a tensor
#   QT_STATUS(qt_item, (qt_tensor x, double *out), (x, out))                          may fail
#   QT_VALUE(int64_t, qt_live, (void), ())                                            returns something else
#   QT_VOID(qt_set_grad, (bool on), (on))
#
# A declaration is what stands between two semicolons outside comments, braces and preprocessor lines, and has "qt_NAME(".
{
	sub(/\r$/, "")
	if ($0 !~ /^[ \t]*#/)
		text = text $0 " "
}

# The names in a parameter list: the last word of each parameter.
function names_of(parameters,  list, n, i, result)
{
	if (parameters ~ /^[ \t]*void[ \t]*$/)
		return "()"
	n = split(parameters, list, ",")
	for (i = 1; i <= n; i++) {
		sub(/[ \t]+$/, "", list[i])
		sub(/.*[^A-Za-z0-9_]/, "", list[i])
		result = result (i > 1 ? ", " : "") list[i]
	}
	return "(" result ")"
}

function row(declaration,  at, type, name, parameters)
{
	at = match(declaration, /qt_[a-z0-9_]*\(/)
	name = substr(declaration, at, RLENGTH - 1)
	if (!at || index(" " own " ", " " name " "))
		return
	type = substr(declaration, 1, at - 1)
	parameters = substr(declaration, at + RLENGTH)
	sub(/\)[^)]*$/, "", parameters)
	gsub(/QD_CHECK|^[ \t]+|[ \t]+$/, "", type)
	sub(/^[ \t]+/, "", type)
	if (type == "enum qd_status" && parameters ~ /qt_tensor \*out$/)
		printf "QT_TENSOR(%s, (%s), %s)\n", name, parameters, names_of(parameters)
	else if (type == "enum qd_status")
		printf "QT_STATUS(%s, (%s), %s)\n", name, parameters, names_of(parameters)
	else if (type == "void")
		printf "QT_VOID(%s, (%s), %s)\n", name, parameters, names_of(parameters)
	else
		printf "QT_VALUE(%s, %s, (%s), %s)\n", type, name, parameters, names_of(parameters)
}

END {
	while ((from = index(text, "/*")) > 0) {
		to = index(substr(text, from + 2), "*/")
		text = substr(text, 1, from - 1) " " substr(text, from + to + 3)
	}
	# whatever stands in braces is no declaration; of extern "C" only the opening is left
	sub(/extern "C" \{/, "", text)
	while (match(text, /\{[^{}]*\}/))
		text = substr(text, 1, RSTART - 1) substr(text, RSTART + RLENGTH)
	gsub(/[ \t]+/, " ", text)
	n = split(text, declarations, ";")
	for (i = 1; i <= n; i++)
		row(declarations[i])
}
