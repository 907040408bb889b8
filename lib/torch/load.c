/*
 * The shim as a library that is loaded at its first use. Loading libtorch takes half a second of processor time and 150 MB, most of
 * it in what Debian's build draws in; a command that only reads files, and one that refuses them, should not pay for it.
 *
 * The program is linked with this file in place of the shim: every function of shim.h is here (the rows are made from that header),
 * loads libquad-torch.so unless it is there, and passes on. The library finds what it uses of the program's own functions,
 * qd_fail's message among them, in the program. Programs that are linked with the shim itself have no use for this file.
 */
#include "lib/torch/shim.h"

#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef void (*function)(void);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library; /* NULL: not loaded */
static char failure[512];
static int threads; /* asked for before it was loaded; 0: not */

/* The function `name` of the library; looked up once. */
static enum qd_status find(const char *name, function *f)
{
	function found = __atomic_load_n(f, __ATOMIC_RELAXED);
	if (found != NULL)
		return QD_OK;
	void *address = dlsym(library, name);
	if (address == NULL)
		return qd_fail(QD_ETORCH, "the library that executes graphs is of another version: it has no '%s'", name);
	memcpy(&found, &address, sizeof(found)); /* C does not convert data pointers to functions, POSIX promises the bytes */
	__atomic_store_n(f, found, __ATOMIC_RELAXED);
	return QD_OK;
}

static enum qd_status set_threads(int n)
{
	static function f;
	enum qd_status st = find("qt_set_threads", &f);
	return st == QD_OK ? ((enum qd_status(*)(int))f)(n) : st;
}

static void load(void)
{
	void *handle = dlopen("libquad-torch.so", RTLD_NOW | RTLD_LOCAL);
	if (handle == NULL) {
		snprintf(failure, sizeof(failure), "cannot load the library that executes graphs: %s", dlerror());
		return;
	}
	__atomic_store_n(&library, handle, __ATOMIC_RELEASE);
	if (threads && set_threads(threads) != QD_OK)
		snprintf(failure, sizeof(failure), "%s", qd_message());
}

static bool loaded(void)
{
	return __atomic_load_n(&library, __ATOMIC_ACQUIRE) != NULL;
}

static enum qd_status ready(const char *name, function *f)
{
	pthread_once(&once, load);
	return failure[0] ? qd_fail(QD_ETORCH, "%s", failure) : find(name, f);
}

/* ---- what needs no library to be loaded ---- */

int64_t qt_live(void)
{
	static function f;
	return loaded() && find("qt_live", &f) == QD_OK ? ((int64_t(*)(void))f)() : 0;
}

void qt_free(qt_tensor x)
{
	static function f;
	if (x != NULL && ready("qt_free", &f) == QD_OK)
		((void (*)(qt_tensor))f)(x);
}

/* The CPU is where everything is made anyway. */
enum qd_status qt_set_device(const char *device)
{
	static function f;
	enum qd_status st;

	if (!loaded() && strcmp(device, "cpu") == 0)
		return QD_OK;
	st = ready("qt_set_device", &f);
	return st == QD_OK ? ((enum qd_status(*)(const char *))f)(device) : st;
}

enum qd_status qt_set_threads(int n)
{
	if (loaded())
		return set_threads(n);
	omp_set_num_threads(n);
	threads = n;
	return QD_OK;
}

bool qt_on_cpu(void)
{
	static function f;
	return !loaded() || find("qt_on_cpu", &f) != QD_OK || ((bool (*)(void))f)();
}

/* ---- all others ---- */

#define QT_STATUS(name, parameters, names)                                                                                         \
	enum qd_status name parameters                                                                                             \
	{                                                                                                                          \
		static function f;                                                                                                 \
		enum qd_status st = ready(#name, &f);                                                                              \
		return st == QD_OK ? ((enum qd_status(*) parameters)f)names : st;                                                  \
	}
#define QT_TENSOR(name, parameters, names)                                                                                         \
	enum qd_status name parameters                                                                                             \
	{                                                                                                                          \
		static function f;                                                                                                 \
		*out = NULL;                                                                                                       \
		enum qd_status st = ready(#name, &f);                                                                              \
		return st == QD_OK ? ((enum qd_status(*) parameters)f)names : st;                                                  \
	}
#define QT_VALUE(type, name, parameters, names)                                                                                    \
	type name parameters                                                                                                       \
	{                                                                                                                          \
		static function f;                                                                                                 \
		return ready(#name, &f) == QD_OK ? ((type(*) parameters)f)names : (type)0;                                         \
	}
#define QT_VOID(name, parameters, names)                                                                                           \
	void name parameters                                                                                                       \
	{                                                                                                                          \
		static function f;                                                                                                 \
		if (ready(#name, &f) == QD_OK)                                                                                     \
			((void(*) parameters)f) names;                                                                             \
	}
#include "shim-calls.h"
