/*
 * quad: one program, one table of commands.
 */
#include "cmd/cmd.h"
#include "version.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * How threads wait, which the libraries take from the environment when they are loaded. A thread of OpenMP's spins before it sleeps:
 * where the processors are shared, or a quota counts the time, it keeps the others from what it waits for (a training step took 37
 * times as long). So they sleep at once, unless the caller chose. OpenMP is there from the start, which takes a second start of the
 * program. OpenBLAS, loaded later, is called from within others' threads; its own under theirs made sampling 1.6 times as slow, and
 * where no more threads can be had, it does not get by: it has none.
 */
static void wait_asleep(char **argv)
{
	char self[4096];
	ssize_t n;

	setenv("OPENBLAS_NUM_THREADS", "1", 1);
	if (getenv("OMP_WAIT_POLICY") != NULL || getenv("GOMP_SPINCOUNT") != NULL)
		return;
	n = readlink("/proc/self/exe", self, sizeof(self));
	if (n <= 0 || n == (ssize_t)sizeof(self) || setenv("OMP_WAIT_POLICY", "passive", 1) != 0)
		return;
	self[n] = '\0';
	execv(self, argv); /* returns only where it cannot, and then threads spin */
}

static int dispatch(int argc, char **argv)
{
	if (argc < 2) {
		qd_help_usage(stderr);
		return QD_EXIT_USAGE;
	}
	const char *name = argv[1];
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		const char *torch = qt_version();
		qd_print("quad %s (%s%s)\n", QUAD_VERSION, torch != NULL ? "libtorch " : "", torch != NULL ? torch : qd_message());
		return QD_EXIT_DONE;
	}
	if (strcmp(name, "help") == 0 && argc > 2)
		return qd_help(argv[2], argc > 3 ? argv[3] : NULL);
	if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
		qd_help_usage(stdout);
		return QD_EXIT_DONE;
	}
	const struct qd_command *command = qd_command_find(name);
	return command != NULL ? qd_command_run(command, argc - 1, argv + 1) : qd_help_unknown(name);
}

/* Leaves no half-written output behind, then dies of the same signal so that the caller sees it. */
static void on_signal(int number)
{
	qd_outputs_abandon();
	signal(number, SIG_DFL);
	raise(number);
}

static void say(const char *text)
{
	ssize_t written = write(STDERR_FILENO, text, strlen(text));
	(void)written;
}

/* A mapped file became shorter, or its disk cannot be read. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
	const char *path = qd_mapping_path(info->si_addr);

	(void)context;
	if (path == NULL) {
		on_signal(number);
		return;
	}
	qd_outputs_abandon();
	say(isatty(STDERR_FILENO) ? "\r\033[Kquad: cannot read '" : "quad: cannot read '");
	say(path);
	say("': it became shorter while it was being read, or its disk failed\n");
	_exit(QD_EXIT_FAILED);
}

/* A closed pipe ends the program like an interrupt does; a signal that the caller ignores stays ignored. A file that may not grow
 * further (ulimit -f) is a failure of writing as any other. */
static void catch_signals(void)
{
	struct sigaction bus = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE };
	for (size_t i = 0; i < QD_COUNT(numbers); i++) {
		struct sigaction old, action = { .sa_handler = on_signal };
		sigemptyset(&action.sa_mask);
		if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(numbers[i], &action, NULL);
	}
	sigemptyset(&bus.sa_mask);
	sigaction(SIGBUS, &bus, NULL);
	signal(SIGXFSZ, SIG_IGN);
}

int main(int argc, char **argv)
{
	wait_asleep(argv);
	argp_err_exit_status = QD_EXIT_USAGE;
	catch_signals();
	int code = dispatch(argc, argv);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "quad: cannot write to standard output\n");
		return QD_EXIT_FAILED;
	}
	return code;
}
