/* The pictures of draw.h. */
#include "scripts/example/draw.h"

#include <math.h>

const char *const place_names[PLACES] = { "meadow", "beach", "desert", "snow", "city", "room" };
const char *const shape_names[SHAPES] = { "ball", "box", "tent", "star", "heart", "ring", "mushroom", "house" };
const char *const colour_names[COLOURS] = { "red", "orange", "yellow", "green", "blue", "purple", "pink", "white" };
const char *const texture_names[TEXTURES] = { "plain", "striped", "dotted", "checkered" };

struct rgb {
	float r, g, b;
};
struct point {
	float x, y;
};

static const struct rgb palette[COLOURS] = {
	{ 0.86f, 0.16f, 0.16f },
	{ 0.96f, 0.54f, 0.12f },
	{ 0.97f, 0.84f, 0.22f },
	{ 0.18f, 0.64f, 0.28f },
	{ 0.16f, 0.38f, 0.86f },
	{ 0.52f, 0.24f, 0.74f },
	{ 0.96f, 0.52f, 0.72f },
	{ 0.94f, 0.94f, 0.92f },
};

static float clamp01(float v)
{
	return v < 0 ? 0 : v > 1 ? 1 : v;
}

static float smooth(float low, float high, float v)
{
	float t = clamp01((v - low) / (high - low));
	return t * t * (3 - 2 * t);
}

static struct rgb mix(struct rgb a, struct rgb b, float t)
{
	return (struct rgb){ a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t, a.b + (b.b - a.b) * t };
}

static struct rgb shade(struct rgb c, float s)
{
	return (struct rgb){ clamp01(c.r * s), clamp01(c.g * s), clamp01(c.b * s) };
}

/* ---- signed distances of the shapes, in units of the radius, negative inside ---- */

static float segment_distance2(struct point p, struct point a, struct point b)
{
	float ex = b.x - a.x, ey = b.y - a.y, wx = p.x - a.x, wy = p.y - a.y;
	float t = clamp01((wx * ex + wy * ey) / (ex * ex + ey * ey));
	float dx = wx - ex * t, dy = wy - ey * t;
	return dx * dx + dy * dy;
}

/* Distance to the outline, signed by whether a ray to the right crosses it an odd number of times. */
static float polygon(struct point p, int n, const struct point *corner)
{
	float best = 1e9f;
	bool inside = false;
	for (int i = 0, j = n - 1; i < n; j = i++) {
		struct point a = corner[i], b = corner[j];
		best = fminf(best, segment_distance2(p, a, b));
		if ((a.y > p.y) != (b.y > p.y) && p.x < (b.x - a.x) * (p.y - a.y) / (b.y - a.y) + a.x)
			inside = !inside;
	}
	return inside ? -sqrtf(best) : sqrtf(best);
}

static float rounded_box(struct point p, float cx, float cy, float half_w, float half_h, float corner)
{
	float dx = fabsf(p.x - cx) - half_w + corner, dy = fabsf(p.y - cy) - half_h + corner;
	float outside = hypotf(fmaxf(dx, 0), fmaxf(dy, 0));
	return outside + fminf(fmaxf(dx, dy), 0) - corner;
}

static float star(struct point p)
{
	struct point corner[10];
	for (int i = 0; i < 10; i++) {
		float radius = i % 2 ? 0.46f : 1.05f, angle = (float)i * (float)M_PI / 5 - (float)M_PI / 2;
		corner[i] = (struct point){ radius * cosf(angle), radius * sinf(angle) + 0.05f };
	}
	return polygon(p, 10, corner);
}

static float heart(struct point p)
{
	static const struct point body[5] = { { -0.93f, -0.05f }, { -0.45f, -0.45f }, { 0.45f, -0.45f }, { 0.93f, -0.05f },
		{ 0, 1.0f } };
	float left = hypotf(p.x + 0.47f, p.y + 0.38f) - 0.53f, right = hypotf(p.x - 0.47f, p.y + 0.38f) - 0.53f;
	return fminf(fminf(left, right), polygon(p, 5, body));
}

static float mushroom(struct point p)
{
	float cap = fmaxf(hypotf(p.x, (p.y - 0.05f) * 1.15f) - 1.0f, p.y - 0.1f);
	return fminf(cap, rounded_box(p, 0, 0.5f, 0.34f, 0.5f, 0.15f));
}

static float shape_distance(int shape, struct point p)
{
	static const struct point tent[3] = { { 0, -1.0f }, { 1.05f, 0.9f }, { -1.05f, 0.9f } };
	static const struct point house[5] = { { 0, -1.05f }, { 1.0f, -0.2f }, { 0.8f, 0.95f }, { -0.8f, 0.95f },
		{ -1.0f, -0.2f } };
	switch (shape) {
	case 0:
		return hypotf(p.x, p.y) - 0.95f;
	case 1:
		return rounded_box(p, 0, 0, 0.88f, 0.88f, 0.18f);
	case 2:
		return polygon(p, 3, tent);
	case 3:
		return star(p);
	case 4:
		return heart(p);
	case 5:
		return fabsf(hypotf(p.x, p.y) - 0.68f) - 0.31f;
	case 6:
		return mushroom(p);
	default:
		return polygon(p, 5, house);
	}
}

static struct point object_local(const struct object *o, float x, float y)
{
	float dx = (x - o->x) / o->radius, dy = (y - o->y) / o->radius, c = cosf(o->tilt), s = sinf(o->tilt);
	return (struct point){ c * dx + s * dy, c * dy - s * dx };
}

/* In pixels. */
static float object_distance(const struct object *o, float x, float y)
{
	return shape_distance(o->shape, object_local(o, x, y)) * o->radius;
}

/* Parts inside a shape that are drawn as lines in a sketch and as another colour in a scene: a door, a stem, a window. */
static float detail_distance(const struct object *o, float x, float y)
{
	struct point p = object_local(o, x, y);
	switch (o->shape) {
	case 2:
		return polygon(p, 3, (const struct point[]){ { 0, -0.15f }, { 0.36f, 0.95f }, { -0.36f, 0.95f } }) * o->radius;
	case 6:
		return rounded_box(p, 0, 0.55f, 0.34f, 0.45f, 0.15f) * o->radius;
	case 7:
		return fminf(rounded_box(p, -0.32f, 0.58f, 0.22f, 0.42f, 0.04f), rounded_box(p, 0.34f, 0.3f, 0.2f, 0.2f, 0.02f)) *
		       o->radius;
	default:
		return 1e9f;
	}
}

static bool textured(const struct object *o, struct point p)
{
	float fx = p.x * 1.9f, fy = p.y * 1.9f;
	switch (o->texture) {
	case 1:
		return sinf((fx + fy) * 3.4f) > 0;
	case 2:
		return hypotf(fx - roundf(fx), fy - roundf(fy)) < 0.27f;
	case 3:
		return (((int)floorf(fx) + (int)floorf(fy)) & 1) != 0;
	default:
		return false;
	}
}

static struct rgb object_colour(const struct object *o, float x, float y, float distance)
{
	struct point p = object_local(o, x, y);
	struct rgb base = palette[o->colour];
	struct rgb second = o->colour == 7 ? (struct rgb){ 0.45f, 0.48f, 0.55f } : mix(base, (struct rgb){ 1, 1, 1 }, 0.68f);
	struct rgb c = textured(o, p) ? second : base;
	float detail = detail_distance(o, x, y);
	struct rgb part = o->shape == 6 ? (struct rgb){ 0.95f, 0.9f, 0.8f } : (struct rgb){ 0.28f, 0.2f, 0.16f };
	c = mix(part, c, smooth(-0.6f, 0.4f, detail));
	float light = 1.06f - 0.16f * p.x - 0.24f * p.y;
	c = shade(c, light > 1.25f ? 1.25f : light);
	return mix(c, shade(base, 0.42f), 0.85f * smooth(-1.7f, -0.5f, distance));
}

/* ---- places ---- */

static float ridge(const struct scene *s, float x, int which)
{
	float h = s->horizon * SIZE, k = which ? 0.16f : 0.09f;
	switch (s->place) {
	case 0:
		return h + (which ? 5 : 0) + 3.0f * sinf(x * k + s->phase[which]);
	case 1:
		return which ? h + 9 + 1.2f * sinf(x * 0.2f + s->phase[1]) : h;
	case 2:
		return h + (which ? 7 : 0) + 4.0f * sinf(x * (k - 0.02f) + s->phase[which]);
	case 3:
		return h + (which ? 8 : 0) + 2.0f * sinf(x * k + s->phase[which]);
	case 4: {
		float cell = floorf((x + s->phase[0] * 4) / 9);
		return which ? h + 6 : h - 6 - 6 * (0.5f + 0.5f * sinf(cell * 2.4f + s->phase[1] * 3));
	}
	default:
		return which ? h + 7 : h + 5;
	}
}

static const struct rgb sky_top[PLACES] = { { 0.36f, 0.62f, 0.92f }, { 0.30f, 0.66f, 0.94f }, { 0.96f, 0.66f, 0.40f },
	{ 0.70f, 0.80f, 0.90f }, { 0.52f, 0.56f, 0.80f }, { 0.90f, 0.82f, 0.66f } };
static const struct rgb sky_low[PLACES] = { { 0.80f, 0.90f, 0.98f }, { 0.84f, 0.94f, 0.98f }, { 1.00f, 0.90f, 0.66f },
	{ 0.92f, 0.94f, 0.97f }, { 0.98f, 0.78f, 0.66f }, { 0.86f, 0.74f, 0.56f } };
static const struct rgb middle[PLACES] = { { 0.34f, 0.60f, 0.28f }, { 0.12f, 0.48f, 0.72f }, { 0.86f, 0.58f, 0.32f },
	{ 0.80f, 0.86f, 0.94f }, { 0.34f, 0.34f, 0.46f }, { 0.55f, 0.36f, 0.22f } };
static const struct rgb ground[PLACES] = { { 0.44f, 0.72f, 0.32f }, { 0.94f, 0.84f, 0.60f }, { 0.93f, 0.71f, 0.42f },
	{ 0.95f, 0.97f, 1.00f }, { 0.50f, 0.50f, 0.54f }, { 0.72f, 0.48f, 0.28f } };

static float ground_pattern(const struct scene *s, float x, float y)
{
	switch (s->place) {
	case 0:
		return 0.07f * sinf(x * 1.9f + 2 * sinf(y * 0.9f)) * sinf(y * 1.3f);
	case 1:
	case 2:
		return 0.05f * sinf(y * 1.1f + 1.5f * sinf(x * 0.14f + s->phase[2]));
	case 3:
		return 0.02f * sinf(x * 0.4f + s->phase[2]) * sinf(y * 0.6f);
	case 4:
		return fabsf(y - SIZE * 0.9f) < 1 && fmodf(x + 40 + s->phase[2], 12) < 6 ? 0.35f : 0;
	default:
		return fmodf(y, 7) < 1 ? -0.18f : 0.04f * sinf(x * 0.5f + floorf(y / 7) * 2);
	}
}

static struct rgb sky_colour(const struct scene *s, float x, float y)
{
	struct rgb c = mix(sky_top[s->place], sky_low[s->place], clamp01(y / (s->horizon * SIZE)));
	if (s->place == 5)
		return fmodf(x + s->phase[0] * 3 + 40, 10) < 5 ? c : shade(c, 1.07f);
	if (s->place == 0 || s->place == 1) {
		float cloud = sinf(x * 0.13f + s->phase[3]) + sinf(x * 0.31f + s->phase[2]) - 0.9f * fabsf(y - 9);
		c = mix(c, (struct rgb){ 1, 1, 1 }, 0.8f * smooth(-0.6f, 0.8f, cloud));
	}
	if (s->place == 2)
		c = mix((struct rgb){ 1, 0.97f, 0.8f }, c, smooth(-1, 1, hypotf(x - 50, y - 11) - 6));
	return c;
}

static struct rgb place_colour(const struct scene *s, float x, float y)
{
	float far = ridge(s, x, 0), near = ridge(s, x, 1);
	struct rgb c = sky_colour(s, x, y);
	struct rgb mid = middle[s->place];
	if (s->place == 4 && y > far + 2 && fmodf(x + s->phase[0] * 4 + 90, 3) < 1.4f && fmodf(y, 4) < 2)
		mid = (struct rgb){ 0.96f, 0.86f, 0.52f };
	if (s->place == 1)
		mid = shade(mid, 1 + 0.12f * sinf(y * 2.2f + sinf(x * 0.3f + s->phase[3])));
	c = mix(c, mid, smooth(-0.7f, 0.7f, y - far));
	struct rgb low = shade(ground[s->place], 1.08f - 0.004f * y + ground_pattern(s, x, y));
	c = mix(c, low, smooth(-0.7f, 0.7f, y - near));
	return shade(c, s->light);
}

/* ---- pictures ---- */

static float shadow(const struct object *o, float x, float y)
{
	float dx = (x - o->x - 1.5f) / (o->radius * 1.05f), dy = (y - o->y - o->radius * 0.95f) / (o->radius * 0.26f);
	return 0.42f * (1 - smooth(0.55f, 1.1f, hypotf(dx, dy)));
}

static struct rgb scene_colour(const struct scene *s, int skip, float x, float y)
{
	struct rgb c = place_colour(s, x, y);
	for (int i = 0; i < s->n; i++)
		if (i != skip)
			c = shade(c, 1 - shadow(&s->objects[i], x, y));
	for (int i = 0; i < s->n; i++) {
		float d = object_distance(&s->objects[i], x, y);
		if (i != skip && d < 1)
			c = mix(object_colour(&s->objects[i], x, y, d), c, smooth(-0.5f, 0.5f, d));
	}
	return c;
}

static float nearest(const struct scene *s, float x, float y)
{
	float best = 1e9f;
	for (int i = 0; i < s->n; i++)
		best = fminf(best, object_distance(&s->objects[i], x, y));
	return best;
}

static float line(float distance)
{
	return 1 - smooth(0.5f, 1.3f, fabsf(distance));
}

static struct rgb sketch_colour(const struct scene *s, float x, float y)
{
	float ink = 0.75f * fmaxf(line(y - ridge(s, x, 0)), line(y - ridge(s, x, 1)));
	for (int i = 0; i < s->n; i++) {
		float d = object_distance(&s->objects[i], x, y);
		ink *= smooth(-0.5f, 0.5f, d);
		ink = fmaxf(ink, line(d));
		if (d < 0)
			ink = fmaxf(ink, 0.8f * line(detail_distance(&s->objects[i], x, y)));
	}
	return mix((struct rgb){ 0.98f, 0.97f, 0.94f }, (struct rgb){ 0.12f, 0.12f, 0.18f }, ink);
}

static float stars(float x, float y)
{
	float best = 1e9f;
	for (int i = 0; i < 14; i++) {
		float sx = fmodf(7.0f + 23.7f * (float)i, SIZE), sy = fmodf(3.0f + 11.3f * (float)i, 27.0f);
		best = fminf(best, hypotf(x - sx, y - sy));
	}
	return 1 - smooth(0.3f, 1.1f, best);
}

static struct rgb night_sky(float x, float y)
{
	struct rgb c = mix((struct rgb){ 0.03f, 0.04f, 0.14f }, (struct rgb){ 0.16f, 0.17f, 0.38f }, clamp01(y / 40));
	c = mix(c, (struct rgb){ 1, 1, 0.9f }, 0.9f * stars(x, y));
	float moon = fmaxf(hypotf(x - 51, y - 11) - 6, 4.8f - hypotf(x - 48.2f, y - 9.5f));
	c = mix(c, (struct rgb){ 0.55f, 0.55f, 0.6f }, 0.35f * (1 - smooth(5, 14, hypotf(x - 51, y - 11))));
	return mix((struct rgb){ 1, 0.97f, 0.8f }, c, smooth(-0.5f, 0.5f, moon));
}

static struct rgb night_colour(const struct scene *s, float x, float y)
{
	struct rgb c = scene_colour(s, -1, x, y);
	float thing = nearest(s, x, y);
	struct rgb dark = { c.r * 0.26f, c.g * 0.32f, c.b * 0.52f + 0.03f };
	struct rgb lamp = { clamp01(c.r * 0.78f + 0.06f), clamp01(c.g * 0.66f + 0.03f), c.b * 0.5f };
	dark = mix(lamp, dark, 0.25f + 0.75f * smooth(-1.0f, 7.0f, thing));
	if (s->place == 5)
		return dark;
	float land = fmaxf(smooth(-0.7f, 0.7f, y - ridge(s, x, 0)), 1 - smooth(-0.5f, 0.5f, thing));
	return mix(night_sky(x, y), dark, land);
}

static struct rgb sticker_colour(const struct scene *s, float x, float y)
{
	struct rgb c = { 0.82f, 0.78f, 0.95f };
	float dot = hypotf(fmodf(x + 4, 8) - 4, fmodf(y + 4, 8) - 4);
	c = mix((struct rgb){ 0.74f, 0.69f, 0.92f }, c, smooth(0.8f, 1.6f, dot));
	c = shade(c, 1 - 0.4f * (1 - smooth(2.0f, 5.5f, nearest(s, x - 1.5f, y - 2.0f))));
	c = mix((struct rgb){ 1, 1, 1 }, c, smooth(-0.5f, 0.5f, nearest(s, x, y) - 3.2f));
	for (int i = 0; i < s->n; i++) {
		float d = object_distance(&s->objects[i], x, y);
		if (d < 1)
			c = mix(object_colour(&s->objects[i], x, y, d), c, smooth(-0.5f, 0.5f, d));
	}
	return c;
}

static struct rgb picture_colour(const struct scene *s, enum picture picture, int skip, float x, float y)
{
	switch (picture) {
	case PICTURE_SKETCH:
		return sketch_colour(s, x, y);
	case PICTURE_NIGHT:
		return night_colour(s, x, y);
	case PICTURE_STICKER:
		return sticker_colour(s, x, y);
	default:
		return scene_colour(s, skip, x, y);
	}
}

void scene_render(const struct scene *scene, enum picture picture, int skip, float *out)
{
	/* Four samples a pixel smooth the textures; outlines are smooth already. */
	static const float at[2] = { 0.25f, 0.75f };
	for (int y = 0; y < SIZE; y++)
		for (int x = 0; x < SIZE; x++) {
			struct rgb sum = { 0, 0, 0 };
			for (int k = 0; k < 4; k++) {
				struct rgb c = picture_colour(scene, picture, skip, (float)x + at[k & 1], (float)y + at[k >> 1]);
				sum = (struct rgb){ sum.r + c.r, sum.g + c.g, sum.b + c.b };
			}
			size_t p = (size_t)y * SIZE + (size_t)x;
			out[p] = sum.r / 4;
			out[p + SIZE * SIZE] = sum.g / 4;
			out[p + 2 * SIZE * SIZE] = sum.b / 4;
		}
}

/* ---- random choices ---- */

static float between(struct qd_random *random, float low, float high)
{
	return low + (high - low) * (float)qd_random_uniform(random);
}

static int choose(struct qd_random *random, int n)
{
	return (int)(qd_random_uniform(random) * n);
}

static void draw_object(struct object *o, struct qd_random *random, float left, float right, float low, float high)
{
	o->shape = choose(random, SHAPES);
	o->colour = choose(random, COLOURS);
	o->texture = choose(random, TEXTURES);
	o->radius = between(random, low, high);
	o->x = between(random, left, right);
	o->y = between(random, 37, 47);
	o->tilt = o->shape == 3 || o->shape == 4 ? between(random, -0.2f, 0.2f) : 0;
}

void scene_draw(struct scene *scene, struct qd_random *random)
{
	scene->place = choose(random, PLACES);
	scene->horizon = between(random, 0.40f, 0.52f);
	for (int i = 0; i < 4; i++)
		scene->phase[i] = between(random, 0, 2 * (float)M_PI);
	scene->light = between(random, 0.92f, 1.04f);
	scene->n = qd_random_uniform(random) < 0.45 ? 1 : 2;
	if (scene->n == 1) {
		draw_object(&scene->objects[0], random, 20, 44, 11, 15);
		return;
	}
	draw_object(&scene->objects[0], random, 14, 22, 8.5f, 11.5f);
	draw_object(&scene->objects[1], random, 42, 50, 8.5f, 11.5f);
}

static int even(float v, bool up)
{
	int i = (int)(up ? ceilf(v / 2) : floorf(v / 2)) * 2;
	return i < 0 ? 0 : i > SIZE ? SIZE : i;
}

void object_box(const struct object *o, int margin, int box[4])
{
	float reach = o->radius * 1.12f + (float)margin;
	box[0] = even(o->x - reach, false);
	box[1] = even(o->y - reach, false);
	box[2] = even(o->x + reach + 2.5f, true);
	box[3] = even(o->y + o->radius * 1.26f + (float)margin, true);
}
