/*
 * Noise schedules and the table of schedulers. From scheduler_config.json:
 *
 *   linear            beta_i = linspace(beta_start, beta_end, T)
 *   scaled_linear     beta_i = linspace(sqrt beta_start, sqrt beta_end, T)^2
 *   squaredcos_cap_v2 beta_i = min(1 - c((i+1)/T) / c(i/T), 0.999), c(u) = cos^2((u + 0.008) / 1.008 * pi/2)
 *   abar_t = product over i <= t of (1 - beta_i)
 *
 * beta and abar are rounded to float32 where the reference implementation rounds, the product runs in double. Lists of n timesteps,
 * in the order they are used (o = steps_offset):
 *
 *   leading   q = T div n; t_i = (n - 1 - i) q + o
 *   trailing  step = -T/n, delta = (T + step) - T; t_i = round(T + i delta) - 1, halves to even, in double as NumPy's arange does
 *   linspace  i (T - 1)/(n - 1), descending; whole numbers (halves to even) for DDIM, float32 for Euler; n = 1 gives 0
 *
 * Stable Diffusion 1 and 2 pipelines override two fields of their files: steps_offset is 1 and clip_sample false.
 */
#include "lib/sampler/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct qd_scheduler_kind *const kinds[] = { &qd_scheduler_ddim, &qd_scheduler_euler, &qd_scheduler_lcm,
	&qd_scheduler_olss };

/* ---- reading ---- */

struct config {
	const json_t *json; /* NULL: Stable Diffusion 1.5's values */
	const char *path;
	enum qd_status status; /* the first field that was wrong */
};

/* A field that is there and not null. */
static const json_t *field(const struct config *c, const char *name)
{
	const json_t *value = json_object_get(c->json, name);
	return value == NULL || json_is_null(value) ? NULL : value;
}

static void wrong(struct config *c, const char *name, const char *needed)
{
	if (c->status == QD_OK)
		c->status = qd_fail(QD_EINPUT, "'%s': field '%s' is not %s", c->path, name, needed);
}

static double number(struct config *c, const char *name, double absent, double low, double high)
{
	const json_t *value = field(c, name);
	double number;
	char needed[64];

	if (value == NULL)
		return absent;
	number = json_number_value(value);
	if (json_is_number(value) && number >= low && number <= high)
		return number;
	snprintf(needed, sizeof(needed), "a number from %g to %g", low, high);
	wrong(c, name, needed);
	return absent;
}

static bool flag(struct config *c, const char *name, bool absent)
{
	const json_t *value = field(c, name);
	if (value != NULL && !json_is_boolean(value))
		wrong(c, name, "true or false");
	return value != NULL ? json_is_true(value) : absent;
}

/* The index of a text field's value among `words`. */
static size_t word(struct config *c, const char *name, size_t absent, const char *const *words, size_t n)
{
	const json_t *value = field(c, name);

	if (value == NULL)
		return absent;
	for (size_t i = 0; i < n && json_is_string(value); i++)
		if (strcmp(json_string_value(value), words[i]) == 0)
			return i;
	if (c->status == QD_OK)
		c->status = qd_fail(QD_EUNSUPPORTED, "'%s': field '%s' is '%s', which is not among the known ones (%s, ...)",
			c->path, name, json_is_string(value) ? json_string_value(value) : "no text", words[0]);
	return absent;
}

/* ---- betas ---- */

/* As torch.linspace in float32: counted from the nearer end. */
static float linspace(float first, float last, int n, int i)
{
	float step = n > 1 ? (last - first) / (float)(n - 1) : 0;
	return i < n / 2 ? first + step * (float)i : last - step * (float)(n - 1 - i);
}

static double cosine(double u)
{
	double c = cos((u + 0.008) / 1.008 * acos(-1.0) / 2);
	return c * c;
}

static float beta_at(size_t shape, double start, double end, int n, int i)
{
	float root;

	if (shape == 0)
		return linspace((float)start, (float)end, n, i);
	if (shape == 2)
		return (float)fmin(1 - cosine((i + 1.0) / n) / cosine((double)i / n), 0.999);
	root = linspace((float)sqrt(start), (float)sqrt(end), n, i);
	return root * root;
}

static void read_betas(struct config *c, struct qd_schedule *schedule)
{
	static const char *const shapes[] = { "linear", "scaled_linear", "squaredcos_cap_v2" };
	const json_t *trained = field(c, "trained_betas");
	bool given = c->json != NULL;
	double start = number(c, "beta_start", given ? 1e-4 : 0.00085, 0, 1),
	       end = number(c, "beta_end", given ? 0.02 : 0.012, 0, 1);
	size_t shape = word(c, "beta_schedule", given ? 0 : 1, shapes, QD_COUNT(shapes));
	double product = 1;

	if (trained != NULL && json_array_size(trained) != (size_t)schedule->train_steps)
		wrong(c, "trained_betas", "a list of num_train_timesteps numbers");
	for (int i = 0; i < schedule->train_steps; i++) {
		float beta = trained != NULL ? (float)json_number_value(json_array_get(trained, (size_t)i))
					     : beta_at(shape, start, end, schedule->train_steps, i);
		product *= (double)(1 - beta);
		schedule->alphas_cumprod[i] = (double)(float)product;
		if ((!(product > 0) || product >= 1) && c->status == QD_OK)
			c->status = qd_fail(QD_EINPUT,
				"'%s': the betas leave %g of the signal at timestep %d, needs more than 0 and less than 1", c->path,
				product, i);
	}
}

/* ---- the other fields ---- */

const char *const qd_prediction_names[] = { "epsilon", "v_prediction", "sample", NULL };

/* Samplers over the betas of this file: any of them serves as a noise schedule, whichever sampler is then asked for. */
static const char *const classes[] = { "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep",
	"DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete",
	"EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD",
	"UniPCMultistep" };

static bool is_known_class(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(classes); i++) {
		size_t n = strlen(classes[i]);
		if (strncmp(name, classes[i], n) == 0 && strcmp(name + n, "Scheduler") == 0)
			return true;
	}
	return false;
}

static void refuse_class(struct config *c)
{
	const char *name = json_string_value(field(c, "_class_name"));

	if (name == NULL || is_known_class(name) || c->status != QD_OK)
		return;
	if (qd_starts_with(name, "FlowMatch") || qd_starts_with(name, "EDM"))
		c->status = qd_fail(QD_EUNSUPPORTED, "'%s': class '%s' has no discrete noise schedule", c->path, name);
	else
		c->status = qd_fail(QD_EUNSUPPORTED,
			"'%s': class '%s' is not among the known ones (DDIMScheduler, PNDMScheduler, "
			"EulerDiscreteScheduler, ...)",
			c->path, name);
}

/* Values that mean something this file does not compute. */
static void refuse_fields(struct config *c)
{
	static const char *const flags[] = { "rescale_betas_zero_snr", "thresholding", "use_exponential_sigmas", "use_beta_sigmas",
		"use_flow_sigmas" };
	static const char *const interpolations[] = { "linear" }, *const types[] = { "discrete" };

	refuse_class(c);
	for (size_t i = 0; i < QD_COUNT(flags); i++)
		if (flag(c, flags[i], false) && c->status == QD_OK)
			c->status = qd_fail(QD_EUNSUPPORTED, "'%s': field '%s' is true, which is not supported", c->path, flags[i]);
	word(c, "interpolation_type", 0, interpolations, QD_COUNT(interpolations));
	word(c, "timestep_type", 0, types, QD_COUNT(types));
}

static void read_fields(struct config *c, struct qd_schedule *s, bool stable_diffusion)
{
	static const char *const spacings[] = { "", "leading", "trailing", "linspace" }, *const finals[] = { "zero", "sigma_min" };
	const char *name = json_string_value(field(c, "_class_name"));

	snprintf(s->class_name, sizeof(s->class_name), "%s", name != NULL ? name : "");
	s->prediction = (enum qd_prediction)word(c, "prediction_type", 0, qd_prediction_names, QD_PREDICT_SAMPLE + 1);
	snprintf(s->spacing, sizeof(s->spacing), "%s", spacings[word(c, "timestep_spacing", 0, spacings, QD_COUNT(spacings))]);
	s->steps_offset = stable_diffusion ? 1 : (int)number(c, "steps_offset", 0, 0, 1e6);
	s->clip_sample = !stable_diffusion && flag(c, "clip_sample", strcmp(s->class_name, "LCMScheduler") != 0);
	s->clip_range = number(c, "clip_sample_range", 1, 0, 1e6);
	s->set_alpha_to_one = flag(c, "set_alpha_to_one", c->json != NULL);
	s->karras = flag(c, "use_karras_sigmas", false);
	s->original_steps = (int)number(c, "original_inference_steps", 50, 1, 1e6);
	s->timestep_scaling = number(c, "timestep_scaling", 10, 1e-6, 1e6);
	s->final_sigma_min = word(c, "final_sigmas_type", 0, finals, QD_COUNT(finals)) == 1;
	s->sigma_min = number(c, "sigma_min", 0, 0, 1e6);
	s->sigma_max = number(c, "sigma_max", 0, 0, 1e6);
}

/* Whether model_index.json names a Stable Diffusion 1 or 2 pipeline. */
static bool is_stable_diffusion(const char *root)
{
	char path[4096];
	json_t *json = NULL;
	const char *name;
	bool is;

	snprintf(path, sizeof(path), "%s/model_index.json", root);
	if (!qd_is_file(path) || qd_json_read(path, &json) != QD_OK)
		return false;
	name = json_string_value(json_object_get(json, "_class_name"));
	is = name != NULL && qd_starts_with(name, "StableDiffusion") && !qd_starts_with(name, "StableDiffusionXL") &&
	     !qd_starts_with(name, "StableDiffusion3");
	json_decref(json);
	return is;
}

enum qd_status qd_schedule_read(struct qd_schedule *schedule, const char *root)
{
	char path[4096];
	json_t *json = NULL;
	struct config c = { .path = path };
	enum qd_status st = QD_OK;

	*schedule = (struct qd_schedule){ 0 };
	snprintf(path, sizeof(path), "%s/scheduler/scheduler_config.json", root);
	if (qd_is_file(path))
		QD_TRY(st, qd_json_read(path, &json));
	else
		qd_log(QD_LOG_INFO, "no '%s': the noise schedule is Stable Diffusion 1.5's", path);
	c.json = json;
	schedule->train_steps = (int)number(&c, "num_train_timesteps", 1000, 1, 1e6);
	schedule->alphas_cumprod = calloc((size_t)schedule->train_steps, sizeof(*schedule->alphas_cumprod));
	if (schedule->alphas_cumprod == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	refuse_fields(&c);
	read_betas(&c, schedule);
	read_fields(&c, schedule, json == NULL || is_stable_diffusion(root));
	st = c.status;
out:
	json_decref(json);
	if (st != QD_OK)
		qd_schedule_release(schedule);
	return st;
}

void qd_schedule_release(struct qd_schedule *schedule)
{
	free(schedule->alphas_cumprod);
	*schedule = (struct qd_schedule){ 0 };
}

void qd_schedule_hash(const struct qd_schedule *s, char *out)
{
	char text[512];

	qd_hash_bytes(s->alphas_cumprod, (size_t)s->train_steps * sizeof(*s->alphas_cumprod), out);
	snprintf(text, sizeof(text), "%s %d %s %d %d %d %d %a %d %a %d %a %a", out, (int)s->prediction, s->spacing, s->steps_offset,
		s->clip_sample, s->set_alpha_to_one, s->karras, s->clip_range, s->original_steps, s->timestep_scaling,
		s->final_sigma_min, s->sigma_min, s->sigma_max);
	qd_hash_bytes(text, strlen(text), out);
}

/* ---- timesteps ---- */

static enum qd_status leading(struct qd_scheduler *s)
{
	int n = s->steps, ratio = s->schedule->train_steps / n, first = (n - 1) * ratio + s->schedule->steps_offset;

	if (first >= s->schedule->train_steps)
		return qd_fail(QD_EINPUT, "%d leading steps with offset %d begin at timestep %d, the schedule ends at %d", n,
			s->schedule->steps_offset, first, s->schedule->train_steps - 1);
	for (int i = 0; i < n; i++)
		s->timesteps[i] = (n - 1 - i) * ratio + s->schedule->steps_offset;
	return QD_OK;
}

/* For some n rounding makes the reference list one longer, with a last step of -1: that one is left out. */
static void trailing(struct qd_scheduler *s)
{
	double train = s->schedule->train_steps, step = -(train / s->steps), delta = (train + step) - train;

	for (int i = 0; i < s->steps; i++)
		s->timesteps[i] = nearbyint(train + i * delta) - 1;
}

static void spread(struct qd_scheduler *s, bool round)
{
	double last = s->schedule->train_steps - 1, step = s->steps > 1 ? last / (s->steps - 1) : 0;

	for (int i = 0; i < s->steps; i++) {
		int from_zero = s->steps - 1 - i;
		double t = i == 0 && s->steps > 1 ? last : from_zero * step;
		s->timesteps[i] = round ? nearbyint(t) : (double)(float)t;
	}
}

enum qd_status qd_spaced_timesteps(struct qd_scheduler *s, const char *spacing, bool round)
{
	if (s->schedule->spacing[0] != '\0')
		spacing = s->schedule->spacing;
	if (s->steps > s->schedule->train_steps)
		return qd_fail(QD_EINPUT, "%d steps, the schedule has %d", s->steps, s->schedule->train_steps);
	if (strcmp(spacing, "leading") == 0)
		return leading(s);
	if (strcmp(spacing, "trailing") == 0)
		trailing(s);
	else
		spread(s, round);
	return QD_OK;
}

/* ---- the table ---- */

static bool is_called(const struct qd_scheduler_kind *kind, const char *text)
{
	size_t n = strlen(kind->name);
	return kind->open != NULL ? strncmp(text, kind->name, n) == 0 && text[n] == ':' : strcmp(text, kind->name) == 0;
}

const char *qd_scheduler_name(size_t i)
{
	if (i >= QD_COUNT(kinds))
		return NULL;
	return kinds[i]->usage != NULL ? kinds[i]->usage : kinds[i]->name;
}

const char *qd_scheduler_plain_name(size_t i)
{
	for (size_t k = 0; k < QD_COUNT(kinds); k++)
		if (kinds[k]->open == NULL && !kinds[k]->noisy && i-- == 0)
			return kinds[k]->name;
	return NULL;
}

static enum qd_status find_kind(const char *text, int *kind)
{
	char list[256] = "";

	for (size_t i = 0; i < QD_COUNT(kinds); i++)
		if (is_called(kinds[i], text)) {
			*kind = (int)i;
			return QD_OK;
		}
	for (size_t i = 0, at = 0; i < QD_COUNT(kinds) && at < sizeof(list); i++)
		at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i > 0 ? ", " : "", qd_scheduler_name(i));
	return qd_fail(QD_EINPUT, "no scheduler '%s', there are %s", text, list);
}

static enum qd_status allocate(struct qd_scheduler *s)
{
	if (s->steps < 1)
		return qd_fail(QD_EINPUT, "%d steps, needs at least 1", s->steps);
	s->timesteps = calloc((size_t)s->steps, sizeof(*s->timesteps));
	s->sigmas = calloc((size_t)s->steps + 1, sizeof(*s->sigmas));
	return s->timesteps != NULL && s->sigmas != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
}

enum qd_status qd_scheduler_new(struct qd_scheduler *s, const struct qd_schedule *schedule, const char *kind, int steps)
{
	const struct qd_scheduler_kind *row;
	enum qd_status st;

	*s = (struct qd_scheduler){ .schedule = schedule, .steps = steps, .init_sigma = 1 };
	QD_TRY(st, find_kind(kind, &s->kind));
	row = kinds[s->kind];
	if (row->open != NULL)
		QD_TRY(st, qd_prefix(row->open(s, strchr(kind, ':') + 1), "scheduler '%s'", row->name));
	QD_TRY(st, allocate(s));
	st = qd_prefix(row->prepare(s), "scheduler '%s'", row->name);
out:
	if (st != QD_OK)
		qd_scheduler_release(s);
	return st;
}

void qd_scheduler_release(struct qd_scheduler *s)
{
	if (kinds[s->kind]->close != NULL)
		kinds[s->kind]->close(s);
	free(s->timesteps);
	free(s->sigmas);
	*s = (struct qd_scheduler){ 0 };
}

void qd_scheduler_scale_input(const struct qd_scheduler *s, int i, size_t n, const float *in, float *out)
{
	double scale = kinds[s->kind]->input_scale != NULL ? kinds[s->kind]->input_scale(s, i) : 1;

	for (size_t k = 0; k < n; k++)
		out[k] = (float)((double)in[k] / scale);
}

enum qd_status qd_scheduler_step(
	const struct qd_scheduler *s, int i, size_t n, float *x, const float *model_out, const float *noise)
{
	if (i < 0 || i >= s->steps)
		return qd_fail(QD_EINPUT, "step %d of a scheduler of %d", i, s->steps);
	return kinds[s->kind]->step(s, i, n, x, model_out, noise);
}
