/*
 * What the library says while it works, on stderr: log lines, and one progress line that is redrawn in place:
 *
 *   calibrate [############............]  12/24  3.4/s  0:03 left  loss 0.0123
 *
 * Where there is no terminal, long work says every now and then that it goes on, in a line of its own:
 *
 *   quad: calibrate  12/24  3.4/s  0:03 left  loss 0.0123
 */
#include "cmd/cmd.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR = 24, LINE = 512 };
static const double redraw_seconds = 0.1, line_seconds = 30;

static struct {
	bool quiet, terminal, drawn;
	int verbose;
	char what[64];
	uint64_t first; /* units that were done when this work was first heard of */
	double begun, last, between;
} state;

void qd_progress_clear(void)
{
	if (state.drawn)
		fputs("\r\033[K", stderr);
	state.drawn = false;
}

static void on_log(void *context, enum qd_log_level level, const char *text)
{
	(void)context;
	if (level == QD_LOG_WARNING ? state.quiet : (int)level > state.verbose)
		return;
	qd_progress_clear();
	fprintf(stderr, "quad: %s%s\n", level == QD_LOG_WARNING ? "warning: " : "", text);
}

/* "1:02:03" or "2:03". */
static void format_time(char *out, size_t bytes, double seconds)
{
	unsigned long s = seconds < 3.6e6 ? (unsigned long)(seconds + 0.5) : 3600000;
	if (s >= 3600)
		snprintf(out, bytes, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
	else
		snprintf(out, bytes, "%lu:%02lu", s / 60, s % 60);
}

/* "  12/24  3.4/s  0:03 left  loss 0.0123" */
static void format_state(char *out, size_t bytes, uint64_t done, uint64_t total, const char *note, double now)
{
	char left[32] = "";
	double seconds = now - state.begun, rate = seconds > 0 ? (double)(done - state.first) / seconds : 0;

	if (rate > 0 && total > done)
		format_time(left, sizeof(left), (double)(total - done) / rate);
	snprintf(out, bytes, "  %llu/%llu  %.3g/s%s%s%s%s%s", (unsigned long long)done, (unsigned long long)total, rate,
		left[0] != '\0' ? "  " : "", left, left[0] != '\0' ? " left" : "", note != NULL ? "  " : "",
		note != NULL ? note : "");
}

static void draw(uint64_t done, uint64_t total, const char *text)
{
	char line[LINE], bar[BAR + 1];
	struct winsize window = { 0 };
	int filled = total != 0 ? (int)((double)done / (double)total * BAR) : 0;

	for (int i = 0; i < BAR; i++)
		bar[i] = i < filled ? '#' : '.';
	bar[BAR] = '\0';
	snprintf(line, sizeof(line), "%s [%s]%s", state.what, bar, text);
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 && window.ws_col < LINE)
		line[window.ws_col - 1] = '\0';
	fprintf(stderr, "\r%s\033[K", line);
	fflush(stderr);
	state.drawn = true;
}

static void on_progress(void *context, const char *what, uint64_t done, uint64_t total, const char *note)
{
	char text[LINE / 2], shown[LINE / 2];
	double now = qd_now();

	(void)context;
	if (strncmp(state.what, what, sizeof(state.what) - 1) != 0 || done < state.first) {
		snprintf(state.what, sizeof(state.what), "%s", what);
		state.begun = now;
		state.first = done;
		if (state.terminal)
			state.last = 0;
	}
	if (done >= total) {
		qd_progress_clear();
		state.what[0] = '\0';
	} else if (now - state.last >= state.between) {
		format_state(text, sizeof(text), done, total, note, now);
		qd_escape(shown, sizeof(shown), text);
		if (state.terminal)
			draw(done, total, shown);
		else
			fprintf(stderr, "quad: %s%s\n", state.what, shown);
		state.last = now;
	}
}

void qd_progress_install(bool quiet, int verbose)
{
	const char *seconds = getenv("QUAD_PROGRESS_SECONDS");

	state.quiet = quiet;
	state.verbose = verbose;
	state.terminal = isatty(STDERR_FILENO) == 1;
	state.between = state.terminal ? redraw_seconds : line_seconds;
	if (seconds != NULL && !state.terminal)
		state.between = strtod(seconds, NULL);
	state.last = qd_now();
	qd_set_log_hook(on_log, NULL);
	qd_set_progress_hook(quiet ? NULL : on_progress, NULL);
}
