/*
 * What is printed on stdout. Names in it come from files that anybody may have made: what is printed for %s is escaped, so that no
 * name begins a line or speaks to the terminal.
 */
#include "cmd/cmd.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A conversion without its '*': "%-*s" and 12 become "%-12s". */
static const char *read_conversion(const char *at, char *spec, size_t size, va_list *args)
{
	size_t n = 0;

	do {
		if (*at == '*')
			n += (size_t)snprintf(spec + n, size - n, "%d", va_arg(*args, int));
		else
			spec[n++] = *at;
		assert(n + 12 < size);
	} while (strchr("%sdicugef", *at++) == NULL || n == 1);
	spec[n] = '\0';
	return at;
}

void qd_print(const char *fmt, ...)
{
	char spec[64];
	va_list args;

	va_start(args, fmt);
	for (const char *at = fmt; *at != '\0';) {
		size_t plain = strcspn(at, "%");
		fwrite(at, 1, plain, stdout);
		at += plain;
		if (*at == '\0')
			break;
		at = read_conversion(at, spec, sizeof(spec), &args);
/* The format is the caller's, a piece at a time. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		switch (at[-1]) {
		case '%':
			putchar('%');
			break;
		case 's': {
			char *text = qd_escaped(va_arg(args, const char *));
			printf(spec, text != NULL ? text : "?");
			free(text);
			break;
		}
		case 'g':
		case 'e':
		case 'f':
			printf(spec, va_arg(args, double));
			break;
		default:
			if (strstr(spec, "ll") != NULL)
				printf(spec, va_arg(args, long long));
			else if (strpbrk(spec, "zl") != NULL)
				printf(spec, va_arg(args, size_t));
			else
				printf(spec, va_arg(args, int));
		}
#pragma GCC diagnostic pop
	}
	va_end(args);
}

enum qd_status qd_print_json(json_t *value)
{
	enum qd_status st = QD_OK;
	char *text;

	if (value == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	qd_progress_clear();
	text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
	json_decref(value);
	if (text == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	/* JSON escapes the control characters of ASCII itself, but for the last; those behind it are two bytes, the first 0xC2. */
	for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
		if (*c == 0x7f)
			printf("\\u007F");
		else if (c[0] == 0xc2 && c[1] < 0xa0)
			printf("\\u%04X", *++c);
		else
			putchar(*c);
	}
	free(text);
	if (putchar('\n') == EOF || fflush(stdout) != 0)
		st = qd_fail(QD_EIO, "cannot write to standard output: %s", strerror(errno));
	return st;
}

json_t *qd_finite_json(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}
