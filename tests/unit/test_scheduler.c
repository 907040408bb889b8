/*
 * lib/sampler, schedulers: the noise schedule, the lists of timesteps and sigmas, and whole runs, against numbers of the reference
 * implementation for Stable Diffusion 1.5's schedule.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/sampler/sampler.h"
#include "tests/unit/scratch.h"

static void assert_near(double value, double expected, double relative)
{
	if (!(fabs(value - expected) <= relative * fabs(expected) + 1e-12))
		fail_msg("%.10g is not within %g of %.10g", value, relative, expected);
}

static void read_in(struct qd_schedule *schedule, const char *text, const char *pipeline)
{
	char folder[512];
	snprintf(folder, sizeof(folder), "%s", scratch_path("scheduler"));
	mkdir(folder, 0700);
	scratch_file("scheduler/scheduler_config.json", text, strlen(text));
	if (qd_schedule_read(schedule, scratch_dir(), pipeline) != QD_OK)
		fail_msg("%s", qd_message());
}

static void read_text(struct qd_schedule *schedule, const char *text)
{
	read_in(schedule, text, "");
}

/* SD1.5's betas with other fields. */
#define SD15(fields)                                                                                                               \
	"{\"num_train_timesteps\": 1000, \"beta_start\": 0.00085, \"beta_end\": 0.012, \"beta_schedule\": "                        \
	"\"scaled_linear\"," fields "}"

/*
 * The reference's float32 linspace rounds by blocks of its vector width, so single betas may differ by one unit in the last place
 * (1e-9 of 1 - beta each); the products are within two units of float32, 1.2e-7 each.
 */
static void has_the_reference_schedule(void **state)
{
	static const struct {
		int t;
		double value;
	} cases[] = { { 0, 0.999149978 }, { 1, 0.998296022 }, { 51, 0.950524092 }, { 101, 0.892980218 }, { 499, 0.27766946 },
		{ 501, 0.274998873 }, { 901, 0.0140048908 }, { 951, 0.00815499946 }, { 981, 0.00577549683 },
		{ 999, 0.00466009602 } };
	struct qd_schedule schedule;

	(void)state;
	assert_int_equal(qd_schedule_read(&schedule, "/nowhere", ""), QD_OK);
	for (size_t i = 0; i < QD_COUNT(cases); i++)
		assert_near(schedule.alphas_cumprod[cases[i].t], cases[i].value, 2.4e-7);
	qd_schedule_release(&schedule);
}

/* What stands for a file is one that reads as nothing does, but for the prediction. */
static void the_default_is_a_file(void **state)
{
	struct qd_schedule none, read;
	json_t *document = qd_schedule_default(QD_PREDICT_V);
	char *text = json_dumps(document, 0);

	(void)state;
	assert_int_equal(qd_schedule_read(&none, "/nowhere", ""), QD_OK);
	read_text(&read, text);
	assert_int_equal(read.prediction, QD_PREDICT_V);
	assert_memory_equal(read.alphas_cumprod, none.alphas_cumprod, (size_t)none.train_steps * sizeof(double));
	assert_string_equal(read.spacing, none.spacing);
	assert_int_equal(read.train_steps, none.train_steps);
	assert_int_equal(read.steps_offset, 1);
	assert_int_equal(none.steps_offset, 1);
	assert_false(read.clip_sample || none.clip_sample || read.set_alpha_to_one || none.set_alpha_to_one);
	qd_schedule_release(&none);
	qd_schedule_release(&read);
	json_decref(document);
	free(text);
}

/* diffusers writes what stands for infinity as it prints it, into fields that nobody asks for. */
static void reads_what_python_prints(void **state)
{
	struct qd_schedule schedule;

	(void)state;
	read_text(&schedule, "\xef\xbb\xbf" SD15("\"lambda_min_clipped\": -Infinity, \"steps_offset\": 1"));
	assert_int_equal(schedule.train_steps, 1000);
	assert_int_equal(schedule.steps_offset, 1);
	qd_schedule_release(&schedule);
}

static void assert_timesteps(const char *spacing, const char *kind, int steps, size_t n, const double *expected)
{
	char text[400];
	struct qd_schedule schedule;
	struct qd_scheduler s;

	snprintf(text, sizeof(text), SD15("\"steps_offset\": 1, \"timestep_spacing\": \"%s\""), spacing);
	read_text(&schedule, text);
	assert_int_equal(qd_scheduler_new(&s, &schedule, kind, steps), QD_OK);
	for (size_t i = 0; i < n; i++)
		assert_near(s.timesteps[i], expected[i], 0);
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

static void spaces_timesteps(void **state)
{
	(void)state;
	assert_timesteps("leading", "ddim", 4, 4, (double[]){ 751, 501, 251, 1 });
	assert_timesteps("leading", "ddim", 20, 3, (double[]){ 951, 901, 851 });
	assert_timesteps("leading", "euler", 50, 2, (double[]){ 981, 961 });
	assert_timesteps("trailing", "ddim", 4, 4, (double[]){ 999, 749, 499, 249 });
	assert_timesteps("trailing", "ddim", 20, 2, (double[]){ 999, 949 });
	assert_timesteps("trailing", "ddim", 6, 2, (double[]){ 999, 832 });
	assert_timesteps("linspace", "ddim", 10, 10, (double[]){ 999, 888, 777, 666, 555, 444, 333, 222, 111, 0 });
	assert_timesteps("linspace", "ddim", 1, 1, (double[]){ 0 });
	assert_timesteps("linspace", "euler", 5, 5, (double[]){ 999, 749.25, 499.5, 249.75, 0 });
	assert_timesteps("leading", "lcm", 1, 1, (double[]){ 999 });
	assert_timesteps("leading", "lcm", 2, 2, (double[]){ 999, 499 });
	assert_timesteps("leading", "lcm", 4, 4, (double[]){ 999, 759, 499, 259 });
	assert_timesteps("leading", "lcm", 8, 8, (double[]){ 999, 879, 759, 639, 499, 379, 259, 139 });
}

/* Trailing lists that rounding would make one longer end at their n-th entry. */
static void cuts_trailing_lists(void **state)
{
	struct qd_schedule schedule;

	(void)state;
	read_text(&schedule, SD15("\"timestep_spacing\": \"trailing\""));
	for (int n = 1; n <= 1000; n++) {
		struct qd_scheduler s;
		assert_int_equal(qd_scheduler_new(&s, &schedule, "ddim", n), QD_OK);
		for (int i = 0; i < n; i++)
			assert_true(
				s.timesteps[i] >= 0 && s.timesteps[i] <= 999 && (i == 0 || s.timesteps[i] < s.timesteps[i - 1]));
		qd_scheduler_release(&s);
	}
	qd_schedule_release(&schedule);
}

/*
 * The lists by the reference's own arithmetic, numpy.arange(T, 0, -T/n) rounded halves to even, less 1: ceil((0 - T) / (-T/n))
 * entries T + i ((T - T/n) - T). For 62 numbers of steps that is one entry more than asked for, the last -1; exact fractions would
 * give other lists for 111 numbers of steps, as for 48.
 */
static void follows_the_reference_trailing(void **state)
{
	struct qd_schedule schedule;
	int longer = 0, inexact = 0;
	bool of_48 = false;

	(void)state;
	read_text(&schedule, SD15("\"timestep_spacing\": \"trailing\", \"steps_offset\": 1"));
	for (int n = 1; n <= 1000; n++) {
		double step = -(1000.0 / n), delta = (1000.0 + step) - 1000.0;
		int count = (int)ceil(-1000.0 / step);
		bool differs = count != n;
		struct qd_scheduler s;

		assert_int_equal(qd_scheduler_new(&s, &schedule, "ddim", n), QD_OK);
		assert_true(count == n || (count == n + 1 && nearbyint(1000.0 + n * delta) - 1 == -1));
		longer += count == n + 1;
		for (int i = 0; i < n; i++) {
			int over = 1000 * (n - i), half = 2 * (over % n), exact = over / n;
			exact += half > n || (half == n && exact % 2 == 1) ? 1 : 0;
			assert_near(s.timesteps[i], nearbyint(1000.0 + i * delta) - 1, 0);
			differs = differs || exact - 1 != (int)s.timesteps[i];
		}
		of_48 = of_48 || (n == 48 && differs);
		inexact += differs;
		qd_scheduler_release(&s);
	}
	assert_int_equal(longer, 62);
	assert_int_equal(inexact, 111);
	assert_true(of_48);
	qd_schedule_release(&schedule);
}

/* Trailing lists whose spacing does not divide the schedule: the step before t = 999 of 6 ends at 833, although 832 comes next. */
static void ddim_steps_by_the_spacing(void **state)
{
	struct qd_schedule schedule;
	struct qd_scheduler s;
	float x = 0.7f, m = -0.4f;

	(void)state;
	read_text(&schedule, SD15("\"timestep_spacing\": \"trailing\", \"clip_sample\": false"));
	assert_int_equal(qd_scheduler_new(&s, &schedule, "ddim", 6), QD_OK);
	double a = schedule.alphas_cumprod[999], next = schedule.alphas_cumprod[833];
	double x0 = ((double)x - sqrt(1 - a) * (double)m) / sqrt(a);
	assert_int_equal(qd_scheduler_step(&s, 0, 1, &x, &m, NULL), QD_OK);
	assert_near((double)x, sqrt(next) * x0 + sqrt(1 - next) * (double)m, 1e-6);
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

static void assert_sigmas(const char *fields, int steps, double init, size_t n, const double *expected)
{
	char text[400];
	struct qd_schedule schedule;
	struct qd_scheduler s;

	snprintf(text, sizeof(text), SD15("%s"), fields);
	read_text(&schedule, text);
	assert_int_equal(qd_scheduler_new(&s, &schedule, "euler", steps), QD_OK);
	for (size_t i = 0; i < n; i++)
		assert_near(s.sigmas[i], expected[i], 7e-7); /* seven digits are given (5e-7), the schedule is within 2.4e-7 */
	assert_near(s.init_sigma, init, 7e-7);
	assert_true(s.sigmas[steps] == 0);
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

static void assert_last_sigmas(const char *fields, int steps, double before, double last, double end)
{
	char text[400];
	struct qd_schedule schedule;
	struct qd_scheduler s;

	snprintf(text, sizeof(text), SD15("%s"), fields);
	read_text(&schedule, text);
	assert_int_equal(qd_scheduler_new(&s, &schedule, "euler", steps), QD_OK);
	assert_near(s.sigmas[steps - 2], before, 1e-6);
	/* 1 - abar is small here: 6e-8 of abar is 7e-5 of it, half of that of sigma */
	assert_near(s.sigmas[steps - 1], last, 4e-5);
	assert_near(s.sigmas[steps], end, 4e-5);
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

static void has_the_reference_sigmas(void **state)
{
	(void)state;
	assert_sigmas("\"steps_offset\": 1, \"timestep_spacing\": \"leading\"", 20, 11.07358, 4,
		(double[]){ 11.02833, 8.390687, 6.5064, 5.134433 });
	assert_last_sigmas("\"steps_offset\": 1, \"timestep_spacing\": \"leading\"", 20, 0.2281473, 0.04131448, 0);
	/* sigma at 0: sqrt((1 - abar_0) / abar_0) */
	assert_last_sigmas("\"final_sigmas_type\": \"sigma_min\"", 5, 0.695151, 0.02916753, 0.02916753);
	assert_sigmas("\"steps_offset\": 1", 5, 14.61465, 5, (double[]){ 14.61465, 4.08609, 1.615583, 0.695151, 0.02916753 });
	assert_sigmas("\"timestep_spacing\": \"trailing\"", 4, 14.61465, 4, (double[]){ 14.61465, 4.081731, 1.612887, 0.6932054 });
}

/* sigma_i by the formula, from the plain list's ends; the timestep's sigma, interpolated in the logarithm, is sigma_i again. */
static void spaces_by_karras(void **state)
{
	struct qd_schedule schedule;
	struct qd_scheduler s;

	(void)state;
	read_text(&schedule, SD15("\"use_karras_sigmas\": true"));
	assert_int_equal(qd_scheduler_new(&s, &schedule, "euler", 7), QD_OK);
	for (int i = 0; i < 7; i++) {
		double a = schedule.alphas_cumprod[999], b = schedule.alphas_cumprod[0];
		double first = pow((1 - a) / a, 0.5 / 7), last = pow((1 - b) / b, 0.5 / 7);
		double sigma = pow(first + i / 6.0 * (last - first), 7), t = s.timesteps[i];
		int low = t >= 999 ? 998 : (int)t;
		double a0 = schedule.alphas_cumprod[low], a1 = schedule.alphas_cumprod[low + 1];
		double from = log((1 - a0) / a0) / 2, to = log((1 - a1) / a1) / 2;
		assert_near(s.sigmas[i], sigma, 1e-12);
		/* timesteps are float32: 6e-8 of 999 steps times the table's steepest slope, 0.25 per step */
		assert_true(fabs(from + (t - low) * (to - from) - log(sigma)) < 2e-5);
	}
	assert_near(s.init_sigma, s.sigmas[0], 1e-12);
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

/* m(x, t) = 0.1 x + 1e-5 t on the scaled input. */
static void run_linear_model(struct qd_scheduler *s, float x[4])
{
	for (int i = 0; i < s->steps; i++) {
		float input[4], m[4];
		qd_scheduler_scale_input(s, i, 4, x, input);
		for (int k = 0; k < 4; k++)
			m[k] = 0.1f * input[k] + 1e-5f * (float)s->timesteps[i];
		assert_int_equal(qd_scheduler_step(s, i, 4, x, m, NULL), QD_OK);
	}
}

/* Ten steps in float32: the reference's own rounding is a few units in the last place, 2e-6 of the value. */
static void runs_ddim_and_euler(void **state)
{
	static const double ddim[] = { 6.5370803, -3.3444448, 1.5963168, 13.124761 },
			    euler[] = { 6.5207767, -3.3361051, 1.5923356, 13.092031 };
	struct qd_schedule schedule;
	struct qd_scheduler s;

	(void)state;
	read_text(&schedule, SD15("\"steps_offset\": 1, \"clip_sample\": false, \"set_alpha_to_one\": false, \"timestep_spacing\": "
				  "\"leading\""));
	for (int kind = 0; kind < 2; kind++) {
		float x[4] = { 1, -0.5f, 0.25f, 2 };
		assert_int_equal(qd_scheduler_new(&s, &schedule, kind == 0 ? "ddim" : "euler", 10), QD_OK);
		for (int k = 0; k < 4; k++)
			x[k] *= (float)s.init_sigma;
		run_linear_model(&s, x);
		for (int k = 0; k < 4; k++)
			assert_near((double)x[k], kind == 0 ? ddim[k] : euler[k], 2e-6);
		qd_scheduler_release(&s);
	}
	qd_schedule_release(&schedule);
}

/*
 * A model that knows the sample: with x = sqrt(abar) x0 + sqrt(1 - abar) e and the exact prediction in each of the three forms, the
 * step must land at sqrt(abar') x0 + sqrt(1 - abar') e, whatever the scheduler.
 */
static void agrees_on_every_prediction(void **state)
{
	static const char *const names[] = { "epsilon", "v_prediction", "sample" };
	const double x0 = 0.7, e = -1.3;

	(void)state;
	for (int p = 0; p < 3; p++)
		for (int kind = 0; kind < 2; kind++) {
			char text[400];
			struct qd_schedule schedule;
			struct qd_scheduler s;
			snprintf(text, sizeof(text),
				SD15("\"prediction_type\": \"%s\", \"clip_sample\": false, \"timestep_spacing\": \"leading\""),
				names[p]);
			read_text(&schedule, text);
			assert_int_equal(qd_scheduler_new(&s, &schedule, kind == 0 ? "ddim" : "euler", 10), QD_OK);
			double a = schedule.alphas_cumprod[900], next = schedule.alphas_cumprod[800];
			double unit = kind == 0 ? 1 : 1 / sqrt(a), unit_next = kind == 0 ? 1 : 1 / sqrt(next);
			double v = sqrt(a) * e - sqrt(1 - a) * x0;
			float x = (float)((sqrt(a) * x0 + sqrt(1 - a) * e) * unit), m = (float)(p == 0 ? e : p == 1 ? v : x0);
			assert_int_equal(qd_scheduler_step(&s, 0, 1, &x, &m, NULL), QD_OK);
			/* rounding of x (1e-7) is amplified by at most 1 / sqrt(abar_900) = 8.5 */
			assert_true(fabs((double)x - (sqrt(next) * x0 + sqrt(1 - next) * e) * unit_next) < 1e-5);
			qd_scheduler_release(&s);
			qd_schedule_release(&schedule);
		}
}

static void clamps_the_prediction(void **state)
{
	struct qd_schedule schedule;
	struct qd_scheduler s;
	float x = 3, m = 5;

	(void)state;
	read_text(&schedule, SD15("\"prediction_type\": \"sample\", \"clip_sample_range\": 2"));
	assert_true(schedule.clip_sample); /* the class default */
	assert_int_equal(qd_scheduler_new(&s, &schedule, "ddim", 1), QD_OK);
	assert_int_equal(qd_scheduler_step(&s, 0, 1, &x, &m, NULL), QD_OK);
	assert_near((double)x, 2, 1e-6); /* one step ends at x0 */
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

/* Both kinds of step of the consistency sampler by its formula. */
static void runs_lcm(void **state)
{
	struct qd_schedule schedule;
	struct qd_scheduler s;
	float x = 0.8f, m = -0.4f, noise = 0.3f;

	(void)state;
	assert_int_equal(qd_schedule_read(&schedule, "/nowhere", ""), QD_OK);
	assert_int_equal(qd_scheduler_new(&s, &schedule, "lcm", 2), QD_OK);
	for (int i = 0; i < 2; i++) {
		double t = i == 0 ? 999 : 499, a = schedule.alphas_cumprod[(int)t], next = schedule.alphas_cumprod[499];
		double x0 = ((double)x - sqrt(1 - a) * (double)m) / sqrt(a);
		double skip = 0.25 / (100 * t * t + 0.25), out = 10 * t / sqrt(100 * t * t + 0.25);
		double d = out * x0 + skip * (double)x, expected = i == 1 ? d : sqrt(next) * d + sqrt(1 - next) * (double)noise;
		assert_int_equal(qd_scheduler_step(&s, i, 1, &x, &m, i == 0 ? &noise : NULL), QD_OK);
		assert_near((double)x, expected, 1e-6);
	}
	assert_int_equal(qd_scheduler_step(&s, 0, 1, &x, &m, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "scheduler 'lcm' needs noise for every step but the last");
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

/* Pipelines of Stable Diffusion 1 and 2 override two fields; others do not. */
static void follows_the_pipeline(void **state)
{
	static const struct {
		const char *pipeline;
		bool overrides;
	} cases[] = { { "StableDiffusionPipeline", true }, { "StableDiffusionInpaintPipeline", true },
		{ "StableDiffusionXLPipeline", false }, { "StableDiffusion3Pipeline", false },
		{ "LatentConsistencyModelPipeline", false }, { "", false } };

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_schedule schedule;
		read_in(&schedule, SD15("\"clip_sample\": true"), cases[i].pipeline);
		assert_int_equal(schedule.steps_offset, cases[i].overrides);
		assert_int_equal(schedule.clip_sample, !cases[i].overrides);
		assert_true(schedule.set_alpha_to_one);
		qd_schedule_release(&schedule);
	}
}

static void follows_class_defaults(void **state)
{
	struct qd_schedule schedule;

	(void)state;
	read_text(&schedule, "{\"_class_name\": \"DDIMScheduler\", \"trained_betas\": null}");
	assert_near(schedule.alphas_cumprod[0], 1 - 1e-4, 1e-7);
	/* the last beta is 0.02 */
	assert_near(schedule.alphas_cumprod[999] / schedule.alphas_cumprod[998], 0.98, 3e-7);
	qd_schedule_release(&schedule);
	/* what a Stable Diffusion folder usually has: the schedule serves whichever sampler is asked for */
	read_text(&schedule, SD15("\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true, \"trained_betas\": null, "
				  "\"steps_offset\": 1, \"set_alpha_to_one\": false"));
	assert_near(schedule.alphas_cumprod[999], 0.00466009602, 2.4e-7);
	assert_string_equal(schedule.spacing, "");
	qd_schedule_release(&schedule);
	read_text(&schedule, "{\"trained_betas\": [0.5, 0.25], \"num_train_timesteps\": 2}");
	assert_near(schedule.alphas_cumprod[1], 0.375, 0);
	qd_schedule_release(&schedule);
	read_text(&schedule, "{\"beta_schedule\": \"squaredcos_cap_v2\"}");
	/* the product telescopes: abar_t = c((t + 1) / T) / c(0); float32 roundings of 500 betas near 1 add up to 3e-5 at most */
	assert_near(
		schedule.alphas_cumprod[499], pow(cos(0.508 / 1.008 * acos(-1) / 2) / cos(0.008 / 1.008 * acos(-1) / 2), 2), 3e-5);
	qd_schedule_release(&schedule);
}

static void refuses_configurations(void **state)
{
	static const struct {
		const char *text, *message;
		enum qd_status status;
	} cases[] = {
		{ "{\"rescale_betas_zero_snr\": true}", "field 'rescale_betas_zero_snr' is true, needs false", QD_EUNSUPPORTED },
		{ "{\"use_exponential_sigmas\": true}", "field 'use_exponential_sigmas' is true, needs false", QD_EUNSUPPORTED },
		{ "{\"use_flow_sigmas\": true}", "field 'use_flow_sigmas' is true, needs false", QD_EUNSUPPORTED },
		{ "{\"thresholding\": true}", "field 'thresholding' is true, needs false", QD_EUNSUPPORTED },
		{ "{\"interpolation_type\": \"log_linear\"}",
			"field 'interpolation_type' is \"log_linear\", needs \"linear\" or null", QD_EUNSUPPORTED },
		{ "{\"timestep_type\": \"continuous\"}", "field 'timestep_type' is \"continuous\", needs \"discrete\" or null",
			QD_EUNSUPPORTED },
		{ "{\"timestep_spacing\": \"even\"}",
			"field 'timestep_spacing' is \"even\", needs \"leading\", \"trailing\", \"linspace\", \"\" or null",
			QD_EUNSUPPORTED },
		{ "{\"_class_name\": \"RePaintScheduler\"}",
			"class 'RePaintScheduler' is not among the known ones (DDIMScheduler, PNDMScheduler, "
			"EulerDiscreteScheduler, ...)",
			QD_EUNSUPPORTED },
		{ "{\"use_beta_sigmas\": true}", "field 'use_beta_sigmas' is true, needs false", QD_EUNSUPPORTED },
		{ "{\"beta_schedule\": \"sigmoid\"}",
			"field 'beta_schedule' is \"sigmoid\", needs \"linear\", \"scaled_linear\", \"squaredcos_cap_v2\" or null",
			QD_EUNSUPPORTED },
		{ "{\"prediction_type\": 3}",
			"field 'prediction_type' is 3, needs \"epsilon\", \"v_prediction\", \"sample\" or null", QD_EUNSUPPORTED },
		{ "{\"beta_start\": \"x\"}", "field 'beta_start' is \"x\", needs a number from 0 to 1", QD_EINPUT },
		{ "{\"beta_start\": 0}", "the betas leave 1 of the signal at timestep 0, needs more than 0 and less than 1",
			QD_EINPUT },
		{ "{\"num_train_timesteps\": 0}", "field 'num_train_timesteps' is 0, needs a number from 1 to 1e+06", QD_EINPUT },
		{ "{\"clip_sample\": 1}", "field 'clip_sample' is 1, needs true or false", QD_EINPUT },
		{ "{\"trained_betas\": [0.5]}", "field 'trained_betas' is [0.5], needs a list of 1000 numbers or null", QD_EINPUT },
		{ "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}",
			"class 'FlowMatchEulerDiscreteScheduler' has no discrete noise schedule", QD_EUNSUPPORTED },
	};

	(void)state;
	mkdir(scratch_path("scheduler"), 0700);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_schedule schedule;
		scratch_file("scheduler/scheduler_config.json", cases[i].text, strlen(cases[i].text));
		assert_int_equal(qd_schedule_read(&schedule, scratch_dir(), ""), cases[i].status);
		assert_true(qd_ends_with(qd_message(), cases[i].message));
	}
}

static void refuses_step_counts(void **state)
{
	static const struct {
		const char *kind;
		int steps;
		const char *message;
	} cases[] = {
		{ "ddim", 0, "0 steps, needs at least 1" },
		{ "ddim", 1001, "scheduler 'ddim': 1001 steps, the schedule has 1000" },
		{ "ddim", 1000,
			"scheduler 'ddim': 1000 leading steps with offset 1 begin at timestep 1000, the schedule ends at 999" },
		{ "lcm", 51, "scheduler 'lcm': 51 steps, the model was distilled from 50" },
		{ "olss", 10, "no scheduler 'olss', there are ddim, euler, lcm, olss:FILE" },
		{ "heun", 10, "no scheduler 'heun', there are ddim, euler, lcm, olss:FILE" },
	};
	struct qd_schedule schedule;

	(void)state;
	assert_int_equal(qd_schedule_read(&schedule, "/nowhere", ""), QD_OK);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_scheduler s;
		assert_int_equal(qd_scheduler_new(&s, &schedule, cases[i].kind, cases[i].steps), QD_EINPUT);
		assert_string_equal(qd_message(), cases[i].message);
	}
	qd_schedule_release(&schedule);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(has_the_reference_schedule),
		cmocka_unit_test(the_default_is_a_file),
		cmocka_unit_test(reads_what_python_prints),
		cmocka_unit_test(spaces_timesteps),
		cmocka_unit_test(cuts_trailing_lists),
		cmocka_unit_test(follows_the_reference_trailing),
		cmocka_unit_test(ddim_steps_by_the_spacing),
		cmocka_unit_test(has_the_reference_sigmas),
		cmocka_unit_test(spaces_by_karras),
		cmocka_unit_test(runs_ddim_and_euler),
		cmocka_unit_test(agrees_on_every_prediction),
		cmocka_unit_test(clamps_the_prediction),
		cmocka_unit_test(runs_lcm),
		cmocka_unit_test(follows_the_pipeline),
		cmocka_unit_test(follows_class_defaults),
		cmocka_unit_test(refuses_configurations),
		cmocka_unit_test(refuses_step_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
