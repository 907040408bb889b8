/*
 * How the library speaks: the message of the last failure (one per thread, one line), and the hooks for log lines and progress.
 */
#include "lib/base/base.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MESSAGE_BYTES = 2048 };

static _Thread_local char message[MESSAGE_BYTES];

static struct {
	qd_log_hook log;
	void *log_context;
	qd_progress_hook progress;
	void *progress_context;
} hooks;

/* One line of text; names in it come from files. */
static void format(char *out, const char *fmt, va_list args)
{
	char text[MESSAGE_BYTES]; /* apart from `message`, which may itself be an argument */

	vsnprintf(text, sizeof(text), fmt, args);
	qd_escape(out, MESSAGE_BYTES, text);
}

enum qd_status qd_fail(enum qd_status code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	format(message, fmt, args);
	va_end(args);
	return code;
}

enum qd_status qd_prefix(enum qd_status code, const char *fmt, ...)
{
	if (code == QD_OK)
		return code;
	char text[MESSAGE_BYTES];
	va_list args;
	va_start(args, fmt);
	format(text, fmt, args);
	va_end(args);
	size_t used = strlen(text), old = strlen(message);
	if (used > MESSAGE_BYTES - 3)
		used = MESSAGE_BYTES - 3;
	if (old > MESSAGE_BYTES - 3 - used)
		old = MESSAGE_BYTES - 3 - used;
	memmove(message + used + 2, message, old);
	memcpy(message, text, used);
	memcpy(message + used, ": ", 2);
	message[used + 2 + old] = '\0';
	return code;
}

const char *qd_message(void)
{
	return message;
}

void qd_set_log_hook(qd_log_hook hook, void *context)
{
	hooks.log = hook;
	hooks.log_context = context;
}

void qd_log(enum qd_log_level level, const char *fmt, ...)
{
	if (hooks.log == NULL)
		return;
	char text[MESSAGE_BYTES];
	va_list args;
	va_start(args, fmt);
	format(text, fmt, args);
	va_end(args);
	hooks.log(hooks.log_context, level, text);
}

void qd_set_progress_hook(qd_progress_hook hook, void *context)
{
	hooks.progress = hook;
	hooks.progress_context = context;
}

void qd_progress(const char *what, uint64_t done, uint64_t total, const char *note)
{
	if (hooks.progress != NULL)
		hooks.progress(hooks.progress_context, what, done, total, note);
}

double qd_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
