/*
 * ONNX Runtime's C interface without its header.
 *
 *   const OrtApiBase *OrtGetApiBase(void)          the one exported function
 *   OrtApiBase { const void *(*GetApi)(uint32_t version); const char *(*GetVersionString)(void); }
 *   GetApi(20)                                     the table: an array of function pointers
 *
 * Functions that can fail return an OrtStatus pointer, NULL for success, to be released. Every other object is opaque and released
 * by its own function. Element types are numbered as in ONNX's TensorProto.DataType.
 */
#include "lib/ort/ort.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { API_VERSION = 20, LOG_ERRORS = 3, OPTIMIZE_ALL = 99, ALLOCATOR_DEVICE = 0, MEMORY_DEFAULT = 0 };

static const char library_name[] = "libonnxruntime.so.1";

typedef void (*slot)(void);
struct api_base {
	const void *(*get_api)(uint32_t version);
	const char *(*version)(void);
};

/* X(slot, result, name, arguments): the rows of the table that are used. Everything but text and numbers is an opaque pointer. */
#define ORT_SLOTS(X)                                                                                                               \
	X(2, const char *, GetErrorMessage, (const void *status))                                                                  \
	X(3, void *, CreateEnv, (int level, const char *id, void **out))                                                           \
	X(7, void *, CreateSession, (const void *env, const char *path, const void *options, void **out))                          \
	X(9, void *, Run,                                                                                                          \
		(void *session, const void *options, const char *const *names, const void *const *in, size_t n_in,                 \
			const char *const *out_names, size_t n_out, void **out))                                                   \
	X(10, void *, CreateSessionOptions, (void **out))                                                                          \
	X(14, void *, EnableProfiling, (void *options, const char *prefix))                                                        \
	X(23, void *, SetSessionGraphOptimizationLevel, (void *options, int level))                                                \
	X(24, void *, SetIntraOpNumThreads, (void *options, int threads))                                                          \
	X(39, void *, CreateRunOptions, (void **out))                                                                              \
	X(49, void *, CreateTensorWithDataAsOrtValue,                                                                              \
		(const void *memory, void *data, size_t bytes, const int64_t *shape, size_t rank, int type, void **out))           \
	X(69, void *, CreateCpuMemoryInfo, (int allocator, int memory, void **out))                                                \
	X(92, void, ReleaseEnv, (void *env))                                                                                       \
	X(93, void, ReleaseStatus, (void *status))                                                                                 \
	X(94, void, ReleaseMemoryInfo, (void *memory))                                                                             \
	X(95, void, ReleaseSession, (void *session))                                                                               \
	X(96, void, ReleaseValue, (void *value))                                                                                   \
	X(97, void, ReleaseRunOptions, (void *options))                                                                            \
	X(100, void, ReleaseSessionOptions, (void *options))                                                                       \
	X(280, void *, CreateLoraAdapter, (const char *path, void *allocator, void **out))                                         \
	X(282, void, ReleaseLoraAdapter, (void *adapter))                                                                          \
	X(283, void *, RunOptionsAddActiveLoraAdapter, (void *options, const void *adapter))

struct api {
#define ORT_MEMBER(index, result, name, arguments) result(*name) arguments;
	ORT_SLOTS(ORT_MEMBER)
#undef ORT_MEMBER
};

struct qd_ort {
	void *library, *env, *memory;
	struct api api;
	char version[32];
};

struct qd_ort_session {
	struct qd_ort *ort;
	void *session;
};

/* Turns a status of the library into ours; its message is shortened to one line. */
static enum qd_status check(const struct qd_ort *ort, void *status, const char *what)
{
	if (status == NULL)
		return QD_OK;
	const char *message = ort->api.GetErrorMessage(status);
	int length = (int)strcspn(message, "\n");
	enum qd_status st = qd_fail(QD_EINPUT, "ONNX Runtime: %s: %.*s", what, length, message);
	ort->api.ReleaseStatus(status);
	return st;
}

/* The library in a folder relative to the program's own, or NULL. */
static void *open_beside_program(const char *folder)
{
	char path[4096], program[4096];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);

	if (n <= 0)
		return NULL;
	program[n] = '\0';
	*strrchr(program, '/') = '\0';
	if ((size_t)snprintf(path, sizeof(path), "%s/%s/%s", program, folder, library_name) >= sizeof(path))
		return NULL;
	return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* Never by a path that depends on where the program was started. */
static void *open_anywhere(void)
{
	static const char *const folders[] = { "ort", "../lib/quad" }; /* of a build, and of an installation */
	static const char *const names[] = { library_name, "libonnxruntime.so" };
	void *library = NULL;

	for (size_t i = 0; library == NULL && i < QD_COUNT(names); i++)
		library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	for (size_t i = 0; library == NULL && i < QD_COUNT(folders); i++)
		library = open_beside_program(folders[i]);
	return library;
}

static enum qd_status load_library(struct qd_ort *ort, const char *path)
{
	const char *named = path != NULL ? path : getenv("QUAD_ORT_LIB");
	if (named != NULL && named[0] == '\0')
		named = NULL;
	ort->library = named != NULL ? dlopen(named, RTLD_NOW | RTLD_LOCAL) : open_anywhere();
	if (ort->library == NULL && named != NULL)
		return qd_fail(QD_EUNSUPPORTED, "cannot load ONNX Runtime: %s", dlerror());
	if (ort->library == NULL)
		return qd_fail(QD_EUNSUPPORTED, "no ONNX Runtime found: run scripts/get-onnxruntime.sh, or name libonnxruntime.so "
						"in QUAD_ORT_LIB or --ort-lib");
	return QD_OK;
}

static enum qd_status fill_api(struct qd_ort *ort)
{
	const struct api_base *(*get_base)(void);
	void *symbol = dlsym(ort->library, "OrtGetApiBase");
	if (symbol == NULL)
		return qd_fail(QD_EUNSUPPORTED, "the library loaded as ONNX Runtime has no OrtGetApiBase");
	memcpy(&get_base, &symbol, sizeof(get_base));
	const struct api_base *base = get_base();
	snprintf(ort->version, sizeof(ort->version), "%s", base->version());
	const slot *table = base->get_api(API_VERSION);
	if (table == NULL)
		return qd_fail(QD_EUNSUPPORTED, "ONNX Runtime %s is too old, needs 1.20", ort->version);
#define ORT_TAKE(index, result, name, arguments) ort->api.name = (result(*) arguments)table[index];
	ORT_SLOTS(ORT_TAKE)
#undef ORT_TAKE
	return QD_OK;
}

enum qd_status qd_ort_open(struct qd_ort **out, const char *path)
{
	enum qd_status st;
	struct qd_ort *ort = calloc(1, sizeof(*ort));
	*out = NULL;
	if (ort == NULL)
		return qd_fail(QD_ENOMEM, "cannot open ONNX Runtime");
	QD_TRY(st, load_library(ort, path));
	QD_TRY(st, fill_api(ort));
	QD_TRY(st, check(ort, ort->api.CreateEnv(LOG_ERRORS, "quad", &ort->env), "creating its environment"));
	QD_TRY(st, check(ort, ort->api.CreateCpuMemoryInfo(ALLOCATOR_DEVICE, MEMORY_DEFAULT, &ort->memory), "describing memory"));
	*out = ort;
	ort = NULL;
out:
	qd_ort_close(ort);
	return st;
}

void qd_ort_close(struct qd_ort *ort)
{
	if (ort == NULL)
		return;
	if (ort->memory != NULL)
		ort->api.ReleaseMemoryInfo(ort->memory);
	if (ort->env != NULL)
		ort->api.ReleaseEnv(ort->env);
	/* The library stays loaded: its threads and thread-local destructors may outlive its environment. */
	free(ort);
}

const char *qd_ort_version(const struct qd_ort *ort)
{
	return ort->version;
}

enum qd_status qd_ort_session_new(
	struct qd_ort_session **out, struct qd_ort *ort, const char *model, const struct qd_ort_options *o)
{
	enum qd_status st;
	void *options = NULL;
	struct qd_ort_session *session = calloc(1, sizeof(*session));
	*out = NULL;
	if (session == NULL)
		return qd_fail(QD_ENOMEM, "cannot open '%s'", model);
	session->ort = ort;
	QD_TRY(st, check(ort, ort->api.CreateSessionOptions(&options), "creating options"));
	QD_TRY(st, check(ort, ort->api.SetSessionGraphOptimizationLevel(options, OPTIMIZE_ALL), "options"));
	if (o->threads > 0)
		QD_TRY(st, check(ort, ort->api.SetIntraOpNumThreads(options, o->threads), "options"));
	if (o->profile != NULL)
		QD_TRY(st, check(ort, ort->api.EnableProfiling(options, o->profile), "options"));
	QD_TRY(st, check(ort, ort->api.CreateSession(ort->env, model, options, &session->session), model));
	*out = session;
	session = NULL;
out:
	if (options != NULL)
		ort->api.ReleaseSessionOptions(options);
	qd_ort_session_free(session);
	return st;
}

void qd_ort_session_free(struct qd_ort_session *session)
{
	if (session == NULL)
		return;
	if (session->session != NULL)
		session->ort->api.ReleaseSession(session->session);
	free(session);
}

/* What one run holds: values over the caller's tensors, feeds first and then outputs. */
struct run {
	size_t n_feeds, n_outputs;
	const char **names;
	void **values;
	void *options, *adapter;
};

static void run_release(const struct qd_ort *ort, struct run *run)
{
	for (size_t i = 0; run->values != NULL && i < run->n_feeds + run->n_outputs; i++)
		if (run->values[i] != NULL)
			ort->api.ReleaseValue(run->values[i]);
	if (run->options != NULL)
		ort->api.ReleaseRunOptions(run->options);
	if (run->adapter != NULL)
		ort->api.ReleaseLoraAdapter(run->adapter);
	free(run->values);
	free(run->names);
}

static enum qd_status wrap(const struct qd_ort *ort, struct run *run, size_t at, const struct qd_tensor *tensor)
{
	run->names[at] = tensor->name;
	return check(ort,
		ort->api.CreateTensorWithDataAsOrtValue(ort->memory, tensor->data, tensor->bytes, tensor->shape.dim,
			(size_t)tensor->shape.rank, qd_dtype_onnx(tensor->dtype), &run->values[at]),
		tensor->name);
}

static enum qd_status run_prepare(
	const struct qd_ort *ort, struct run *run, const struct qd_tensor *feeds, const char *adapter, struct qd_tensor *outputs)
{
	enum qd_status st;
	size_t total = run->n_feeds + run->n_outputs;
	run->names = calloc(total + 1, sizeof(*run->names));
	run->values = calloc(total + 1, sizeof(*run->values));
	if (run->names == NULL || run->values == NULL)
		return qd_fail(QD_ENOMEM, "cannot feed %zu tensors", total);
	for (size_t i = 0; i < total; i++)
		QD_TRY(st, wrap(ort, run, i, i < run->n_feeds ? &feeds[i] : &outputs[i - run->n_feeds]));
	QD_TRY(st, check(ort, ort->api.CreateRunOptions(&run->options), "creating options"));
	if (adapter != NULL) {
		QD_TRY(st, check(ort, ort->api.CreateLoraAdapter(adapter, NULL, &run->adapter), adapter));
		QD_TRY(st, check(ort, ort->api.RunOptionsAddActiveLoraAdapter(run->options, run->adapter), adapter));
	}
out:
	return st;
}

enum qd_status qd_ort_run(struct qd_ort_session *session, const struct qd_tensor *feeds, size_t n_feeds, const char *adapter,
	struct qd_tensor *outputs, size_t n_outputs)
{
	enum qd_status st;
	const struct qd_ort *ort = session->ort;
	struct run run = { .n_feeds = n_feeds, .n_outputs = n_outputs };
	QD_TRY(st, run_prepare(ort, &run, feeds, adapter, outputs));
	QD_TRY(st, check(ort,
			   ort->api.Run(session->session, run.options, run.names, (const void *const *)run.values, n_feeds,
				   run.names + n_feeds, n_outputs, run.values + n_feeds),
			   "running"));
out:
	run_release(ort, &run);
	return st;
}
