/*
 * quad help: the table of commands, and what is made from it and from the tables of options: man pages and completion for bash and
 * zsh.
 *
 *   quad help COMMAND        what the command says to --help
 *   quad help json           the fields of every document that --json prints
 *   quad help man [PAGE]     a man page in roff: quad(1), or that of a command, or quad-json(5)
 *   quad help bash|zsh       a script of completion
 */
#include "cmd/cmd.h"
#include "version.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINE = 78 };

static const struct qd_command commands[] = {
#define COMMAND_ROW(name, summary, ...) { #name, summary, { __VA_ARGS__ }, qd_cmd_##name },
	QD_COMMANDS(COMMAND_ROW)
#undef COMMAND_ROW
};

/* What a command cannot say for itself, so that nobody else says it either. X(name, text) */
#define EXIT_CODES(X)                                                                                                              \
	X("0", "done")                                                                                                             \
	X("1", "a check said no")                                                                                                  \
	X("2", "wrong usage")                                                                                                      \
	X("3", "could not do it, for the reason in the last line of standard error")
#define VARIABLES(X)                                                                                                               \
	X("QUAD_ORT_LIB", "the library of ONNX Runtime, where --ort-lib does not say it")                                          \
	X("QUAD_PROGRESS_SECONDS", "how often long work reports where standard error is no terminal; 30 without it")               \
	X("OMP_WAIT_POLICY", "active lets threads spin while they wait; they sleep otherwise")
#define OTHER_TOPICS(X)                                                                                                            \
	X("json", "the fields of every document that --json prints")                                                               \
	X("man", "a man page in roff; behind it a command or json")                                                                \
	X("bash", "completion for bash")                                                                                           \
	X("zsh", "completion for zsh")
#define PAIR(name, text) { name, text },
static const struct pair {
	const char *name, *text;
} exit_codes[] = { EXIT_CODES(PAIR) }, variables[] = { VARIABLES(PAIR) }, topics[] = { OTHER_TOPICS(PAIR) };
#undef PAIR

const struct qd_command *qd_command_find(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

/* argp takes the name that messages and usage lines begin with from argv[0]. */
int qd_command_run(const struct qd_command *command, int argc, char **argv)
{
	static char name[64];

	snprintf(name, sizeof(name), "quad %s", command->name);
	argv[0] = name;
	program_invocation_name = program_invocation_short_name = name;
	return command->run(argc, argv);
}

int qd_help_unknown(const char *name)
{
	char shown[256];

	qd_escape(shown, sizeof(shown), name);
	fprintf(stderr, "quad: there is no command '%s'; see 'quad --help'\n", shown);
	return QD_EXIT_USAGE;
}

void qd_help_usage(FILE *to)
{
	fputs("Usage: quad COMMAND [OPTION...]\n"
	      "Quantize one diffusion model with several LoRA adapters as one graph.\n\n",
		to);
	for (size_t i = 0; i < QD_COUNT(commands); i++)
		fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].summary);
	fputs("\nquad help COMMAND says what a command takes, and quad help\n", to);
	for (size_t i = 0; i < QD_COUNT(topics); i++)
		fprintf(to, "    %-8s%s\n", topics[i].name, topics[i].text);
	fputs("Exit codes:\n", to);
	for (size_t i = 0; i < QD_COUNT(exit_codes); i++)
		fprintf(to, "    %-8s%s\n", exit_codes[i].name, exit_codes[i].text);
	fputs("Long work reports on a terminal, and elsewhere every 30 seconds, unless -q is given.\n", to);
}

void qd_print_example(FILE *to, const struct qd_command *command, size_t i, const char *fold)
{
	int at = fprintf(to, "quad %s", command->name);

	/* an option and its value stay together */
	for (const char *word = command->examples[i]; *word != '\0';) {
		size_t n = strcspn(word, " ");
		if (word[0] == '-' && word[n] == ' ' && word[n + 1] != '-')
			n += 1 + strcspn(word + n + 1, " ");
		if (at + 1 + (int)n > LINE - 4) {
			fputs(fold, to);
			at = (int)strlen(fold);
		} else {
			fputc(' ', to);
			at++;
		}
		at += fprintf(to, "%.*s", (int)n, word);
		word += n + (word[n] == ' ');
	}
	fputc('\n', to);
}

/* ---- man pages ---- */

static const struct qd_command *described;

/* Text in roff: no hyphen becomes a dash, no line a request; a sentence to a line is not asked for. */
static void print_roff(const char *text)
{
	bool begins = true;

	for (const char *c = text; *c != '\0'; c++) {
		if (begins && (*c == '.' || *c == '\''))
			fputs("\\&", stdout);
		if (*c == '\\')
			fputs("\\e", stdout);
		else if (*c == '-')
			fputs("\\-", stdout);
		else
			putchar(*c);
		begins = *c == '\n';
	}
}

static void print_pairs(const struct pair *pairs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		fputs(".TP\n.B ", stdout);
		print_roff(pairs[i].name);
		putchar('\n');
		print_roff(pairs[i].text);
		putchar('\n');
	}
}

static void begin_page(const char *name, const char *part, int section, const char *summary)
{
	qd_print(".TH \"");
	for (const char *c = name; *c != '\0'; c++)
		putchar(toupper((unsigned char)*c));
	if (part != NULL)
		putchar('-');
	for (const char *c = part; c != NULL && *c != '\0'; c++)
		putchar(toupper((unsigned char)*c));
	qd_print("\" %d \"\" \"quad %s\" \"quad\"\n.SH NAME\n%s%s%s \\- ", section, QUAD_VERSION, name, part != NULL ? "\\-" : "",
		part != NULL ? part : "");
	print_roff(summary);
	putchar('\n');
}

static void print_option(const struct qd_option_text *o)
{
	if (o->row->kind == QD_OPT_ARGUMENT)
		return;
	fputs(".TP\n", stdout);
	if (o->row->letter != '\0')
		qd_print("\\fB\\-%c\\fR, ", o->row->letter);
	fputs("\\fB", stdout);
	print_roff("--");
	print_roff(o->row->name);
	fputs("\\fR", stdout);
	if (o->value != NULL) {
		fputs("=\\fI", stdout);
		print_roff(o->value);
		fputs("\\fR", stdout);
	}
	putchar('\n');
	print_roff(o->help);
	putchar('\n');
}

static void print_synopsis(const struct qd_option_text *list, size_t n)
{
	qd_print(".SH SYNOPSIS\n.B quad %s\n[\\fIOPTION\\fR...]", described->name);
	for (size_t i = 0; i < n; i++) {
		if (list[i].row->kind == QD_OPT_ARGUMENT) {
			fputs(list[i].required ? " \\fI" : " [\\fI", stdout);
			print_roff(list[i].value);
			fputs(list[i].required ? "\\fR" : "\\fR]", stdout);
		} else if (list[i].required) {
			fputs(" \\fB", stdout);
			print_roff("--");
			print_roff(list[i].row->name);
			fputs("\\fR \\fI", stdout);
			print_roff(list[i].value);
			fputs("\\fR", stdout);
		}
	}
	putchar('\n');
}

static void print_command_page(const char *doc, const struct qd_option_text *list, size_t n)
{
	size_t first = strcspn(doc, "\v");

	begin_page("quad", described->name, 1, described->summary);
	print_synopsis(list, n);
	fputs(".SH DESCRIPTION\n", stdout);
	char *summary = strndup(doc, first);
	print_roff(summary != NULL ? summary : "");
	free(summary);
	if (doc[first] != '\0') {
		fputs("\n.PP\n", stdout);
		print_roff(doc + first + 1);
	}
	fputs("\n.SH OPTIONS\n", stdout);
	for (size_t i = 0; i < n; i++)
		print_option(&list[i]);
	fputs(".SH EXAMPLES\n.nf\n", stdout);
	for (size_t i = 0; i < QD_COUNT(described->examples); i++) {
		struct qd_text text = { 0 };
		if (qd_text_open(&text) == QD_OK) {
			qd_print_example(text.stream, described, i, " \\\n    ");
			if (qd_text_end(&text) == QD_OK)
				print_roff(text.bytes);
		}
		qd_text_release(&text);
	}
	fputs(".fi\n.SH EXIT STATUS\n", stdout);
	print_pairs(exit_codes, QD_COUNT(exit_codes));
	fputs(".SH SEE ALSO\n.BR quad (1),\n.BR quad\\-json (5)\n", stdout);
}

static void print_document(const char *name, const char *text)
{
	qd_print(".SH \"quad %s\"\n", name);
	print_roff(text);
	putchar('\n');
}

static void print_field(const char *path, const char *type, const char *text)
{
	qd_print(".TP\n\\fB%s\\fR  \\fI%s\\fR\n", path, type);
	print_roff(text);
	putchar('\n');
}

static const char *const about_json =
	"What --json prints: one document, with these fields. A path has a dot before each member and [] for "
	"what is in a list. Numbers that are not finite are null.";

static void print_json_page(void)
{
	begin_page("quad", "json", 5, "what quad prints with --json");
	fputs(".SH DESCRIPTION\n", stdout);
	print_roff(about_json);
	putchar('\n');
	qd_json_fields(print_document, print_field);
	fputs(".SH SEE ALSO\n.BR quad (1)\n", stdout);
}

static void print_program_page(void)
{
	begin_page("quad", NULL, 1, "quantize one diffusion model with several LoRA adapters as one graph");
	fputs(".SH SYNOPSIS\n.B quad\n\\fICOMMAND\\fR [\\fIOPTION\\fR...]\n.br\n.B quad help\n\\fICOMMAND\\fR\n.SH COMMANDS\n",
		stdout);
	for (size_t i = 0; i < QD_COUNT(commands); i++) {
		qd_print(".TP\n.BR quad\\-%s (1)\n", commands[i].name);
		print_roff(commands[i].summary);
		putchar('\n');
	}
	fputs(".SH \"OTHER HELP\"\nquad help prints too\n", stdout);
	print_pairs(topics, QD_COUNT(topics));
	fputs(".SH EXIT STATUS\n", stdout);
	print_pairs(exit_codes, QD_COUNT(exit_codes));
	fputs(".SH ENVIRONMENT\n", stdout);
	print_pairs(variables, QD_COUNT(variables));
	fputs(".SH SEE ALSO\n.BR quad\\-json (5)\n", stdout);
}

/* ---- completion ---- */

/* Whether one of the names between '|' is that of a file. */
static bool takes_files(const struct qd_option_text *o)
{
	static const char *const names[] = { "PATH", "FILE", "DIR", "FOLDER" };

	for (size_t i = 0; o->value != NULL && i < QD_COUNT(names); i++)
		if (strstr(o->value, names[i]) != NULL)
			return true;
	return false;
}

/* What may stand there as it is: the choices, but for names; of "olss:FILE" what stands before. Returns how many there are. */
static size_t print_words(const struct qd_option_text *o, const char *between)
{
	size_t n = 0;

	for (const char *at = o->value; at != NULL && *at != '\0';) {
		size_t length = strcspn(at, "|"), word = 0;
		while (word < length && !isupper((unsigned char)at[word]) && at[word] != '[')
			word++;
		if (word > 0)
			qd_print("%s%.*s", n++ > 0 ? between : "", (int)word, at);
		at += length + (at[length] == '|');
	}
	return n;
}

static bool has_words(const struct qd_option_text *o)
{
	return o->value != NULL && !isupper((unsigned char)o->value[0]) && o->value[0] != '[';
}

static void print_bash_command(const char *doc, const struct qd_option_text *list, size_t n)
{
	(void)doc;
	qd_print("	%s)\n		options='--help --usage", described->name);
	for (size_t i = 0; i < n; i++)
		if (list[i].row->kind != QD_OPT_ARGUMENT)
			qd_print(" --%s", list[i].row->name);
	qd_print("'\n		case $option in\n");
	for (size_t i = 0; i < n; i++) {
		const struct qd_option_text *o = &list[i];
		if (o->row->kind == QD_OPT_ARGUMENT || o->value == NULL)
			continue;
		qd_print("		--%s", o->row->name);
		if (o->row->letter != '\0')
			qd_print(" | -%c", o->row->letter);
		qd_print(") words='");
		print_words(o, " ");
		qd_print("' value=%s ;;\n", takes_files(o) ? "file" : "text");
	}
	qd_print("		esac ;;\n");
}

/* Inside of '...[...]' of _arguments. */
static void print_zsh_text(const char *text)
{
	for (const char *c = text; *c != '\0'; c++) {
		if (*c == '\'')
			fputs("'\\'", stdout);
		else if (strchr("[]:\\", *c) != NULL)
			putchar('\\');
		putchar(*c);
	}
}

static void print_zsh_option(const struct qd_option_text *o, const char *name)
{
	fputs(o->row->kind == QD_OPT_TEXTS || o->row->kind == QD_OPT_CALL || o->row->kind == QD_OPT_REPEAT ? " \\\n\t\t\t'*"
													   : " \\\n\t\t\t'",
		stdout);
	if (o->row->kind == QD_OPT_ARGUMENT) {
		fputs(":", stdout);
	} else {
		fputs(name, stdout);
		fputs(o->value != NULL && name[1] == '-' ? "=[" : "[", stdout);
		print_zsh_text(o->help);
		putchar(']');
	}
	if (o->value != NULL) {
		putchar(':');
		print_zsh_text(o->value);
		putchar(':');
		if (has_words(o) && takes_files(o))
			fputs("{ compadd ", stdout);
		else if (has_words(o))
			putchar('(');
		if (has_words(o))
			print_words(o, " ");
		if (has_words(o) && takes_files(o))
			fputs("; _files }", stdout);
		else
			fputs(has_words(o) ? ")" : takes_files(o) ? "_files" : " ", stdout);
	}
	putchar('\'');
}

static void print_zsh_command(const char *doc, const struct qd_option_text *list, size_t n)
{
	char name[64];

	(void)doc;
	qd_print("	%s)\n		_arguments '--help[give the list of options]'", described->name);
	for (size_t i = 0; i < n; i++) {
		const struct qd_option *row = list[i].row;
		snprintf(name, sizeof(name), "--%s", row->name != NULL ? row->name : "");
		print_zsh_option(&list[i], name);
		snprintf(name, sizeof(name), "-%c", row->letter);
		if (row->letter != '\0')
			print_zsh_option(&list[i], name);
	}
	qd_print(" ;;\n");
}

/* Each command describes itself in a process of its own, since that ends it. */
static int describe_all(void (*fn)(const char *doc, const struct qd_option_text *list, size_t n))
{
	for (size_t i = 0; i < QD_COUNT(commands); i++) {
		char self[] = "quad", *argv[] = { self, NULL };
		int status = 0;
		pid_t child;

		fflush(stdout);
		child = fork();
		if (child == 0) {
			described = &commands[i];
			qd_describe_instead(fn);
			_exit(qd_command_run(described, 1, argv));
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
			fprintf(stderr, "quad: cannot list the options of %s\n", commands[i].name);
			return QD_EXIT_FAILED;
		}
	}
	return QD_EXIT_DONE;
}

static int print_bash(void)
{
	int code;

	qd_print("# Completion of quad for bash, made by 'quad help bash'.\n_quad()\n{\n"
		 "	local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]} options= words= value=file\n"
		 "	# '--name=value' comes as three words\n"
		 "	if [ \"$current\" = = ]; then\n		current=\n"
		 "	elif [ \"$option\" = = ] && [ \"$COMP_CWORD\" -gt 2 ]; then\n"
		 "		option=${COMP_WORDS[COMP_CWORD - 2]}\n	fi\n"
		 "	case $COMP_CWORD:${COMP_WORDS[1]} in\n	1:*) words='help --help --version");
	for (size_t i = 0; i < QD_COUNT(commands); i++)
		qd_print(" %s", commands[i].name);
	qd_print("' value=text ;;\n	*:help) words='");
	for (size_t i = 0; i < QD_COUNT(topics); i++)
		qd_print("%s ", topics[i].name);
	for (size_t i = 0; i < QD_COUNT(commands); i++)
		qd_print("%s ", commands[i].name);
	qd_print("' value=text ;;\n	esac\n	[ \"$COMP_CWORD\" -gt 1 ] && case ${COMP_WORDS[1]} in\n");
	code = describe_all(print_bash_command);
	qd_print("	esac\n	[ \"${current:0:1}\" = - ] && words=$options value=text\n"
		 "	mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
		 "	if [ $value = file ]; then\n		local files\n"
		 "		mapfile -t files < <(compgen -f -- \"$current\")\n"
		 "		COMPREPLY+=(\"${files[@]}\")\n		compopt -o filenames 2>/dev/null\n	fi\n}\n"
		 "complete -F _quad quad\n");
	return code;
}

static int print_zsh(void)
{
	int code;

	qd_print("#compdef quad\n# Completion of quad for zsh, made by 'quad help zsh'.\n_quad()\n{\n	local -a commands\n"
		 "	commands=(");
	for (size_t i = 0; i < QD_COUNT(commands); i++) {
		qd_print("\n		'%s:", commands[i].name);
		print_zsh_text(commands[i].summary);
		putchar('\'');
	}
	qd_print("\n		'help:what a command takes, and more')\n	if ((CURRENT == 2)); then\n"
		 "		_describe command commands\n		return\n	fi\n"
		 "	local command=$words[2]\n	shift words\n	((CURRENT--))\n	case $command in\n");
	code = describe_all(print_zsh_command);
	qd_print("	help)\n		local -a topics\n		topics=(");
	for (size_t i = 0; i < QD_COUNT(topics); i++) {
		qd_print("\n			'%s:", topics[i].name);
		print_zsh_text(topics[i].text);
		putchar('\'');
	}
	qd_print(")\n		_describe command commands\n		_describe topic topics ;;\n	esac\n}\n_quad \"$@\"\n");
	return code;
}

/* ---- all of it ---- */

static void list_document(const char *name, const char *text)
{
	qd_print("\nquad %s: %s\n", name, text);
}

static void list_field(const char *path, const char *type, const char *text)
{
	qd_print("  %-38s  %-12s  %s\n", path, type, text);
}

static int print_man(const char *page)
{
	char self[] = "quad", *argv[] = { self, NULL };

	if (page == NULL) {
		print_program_page();
		return QD_EXIT_DONE;
	}
	if (strcmp(page, "json") == 0) {
		print_json_page();
		return QD_EXIT_DONE;
	}
	described = qd_command_find(page);
	if (described == NULL)
		return qd_help_unknown(page);
	qd_describe_instead(print_command_page);
	return qd_command_run(described, 1, argv);
}

int qd_help(const char *topic, const char *of)
{
	char self[] = "quad", help[] = "--help", *argv[] = { self, help, NULL };
	const struct qd_command *command = qd_command_find(topic);

	if (command != NULL)
		return qd_command_run(command, 2, argv);
	if (strcmp(topic, "man") == 0)
		return print_man(of);
	if (strcmp(topic, "bash") == 0)
		return print_bash();
	if (strcmp(topic, "zsh") == 0)
		return print_zsh();
	if (strcmp(topic, "json") != 0)
		return qd_help_unknown(topic);
	qd_print("%s\n", about_json);
	qd_json_fields(list_document, list_field);
	return QD_EXIT_DONE;
}
