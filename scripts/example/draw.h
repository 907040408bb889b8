/*
 * scripts/example: the example's data. Small anti-aliased scenes (one or two objects of a shape, colour and texture, in a place)
 * and what the four tasks make of them: object removal, sketch to image, night (a prompt-guided transformation) and sticker.
 *
 * draw.h: a scene and its pictures. Pixels are computed from signed distances, so edges are smooth at any size. Colours are [0,1]
 * RGB; coordinates are pixels, x right, y down, the picture is SIZE x SIZE.
 */
#ifndef QUAD_SCRIPTS_EXAMPLE_DRAW_H
#define QUAD_SCRIPTS_EXAMPLE_DRAW_H

#include "lib/math/math.h"

#define SIZE 64

enum { PLACES = 6, SHAPES = 8, COLOURS = 8, TEXTURES = 4, MAX_OBJECTS = 2 };
extern const char *const place_names[PLACES], *const shape_names[SHAPES], *const colour_names[COLOURS],
										  *const texture_names[TEXTURES];

struct object {
	int shape, colour, texture;
	float x, y, radius, tilt; /* centre and half size in pixels, turn in radians */
};

struct scene {
	int place;
	float horizon, phase[4], light; /* horizon as a share of the height; phases move hills, waves and dunes */
	int n;
	struct object objects[MAX_OBJECTS]; /* far to near */
};

enum picture { PICTURE_SCENE, PICTURE_SKETCH, PICTURE_NIGHT, PICTURE_STICKER };

/* Draws a scene's random choices. */
void scene_draw(struct scene *scene, struct qd_random *random);
/* Renders planar RGB [3, SIZE, SIZE] into `out`. `skip`: an object left out (-1: none). */
void scene_render(const struct scene *scene, enum picture picture, int skip, float *out);
/* The box [left, top, right, bottom) around an object and its shadow, on even pixels. */
void object_box(const struct object *object, int margin, int box[4]);

#endif
