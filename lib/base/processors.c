/*
 * How many threads are worth starting: one per processor that this process may run on, and no more than what its control groups let
 * it have of them. A group's share is a quota of time per period, in microseconds:
 *
 *   version 2   /sys/fs/cgroup/PATH/cpu.max                                   "50000 100000" or "max 100000"
 *   version 1   /sys/fs/cgroup/cpu/PATH/cpu.cfs_quota_us, cpu.cfs_period_us   "50000" (-1: none), "100000"
 *
 * PATH is in /proc/self/cgroup, "0::PATH" or "3:cpu,cpuacct:PATH", and every group above it counts as well. In a container the
 * folder of PATH may not be there: its own group is the top of what it sees.
 */
#include "lib/base/base.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_TEXT = 4096 };

/* The first line of a small file, or false. */
static bool read_line(const char *path, char *line, int size)
{
	FILE *file = fopen(path, "re");
	bool found = file != NULL && fgets(line, size, file) != NULL;

	if (file != NULL)
		fclose(file);
	return found;
}

/* The quota of one group's folder, in processors; 0: none. */
static double quota_of(const char *folder)
{
	char path[PATH_TEXT + 32], line[64], *end;
	double quota = 0, period = 0;

	snprintf(path, sizeof(path), "%s/cpu.max", folder);
	if (read_line(path, line, sizeof(line))) {
		quota = strtod(line, &end);
		period = strtod(end, NULL);
	} else {
		snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", folder);
		if (read_line(path, line, sizeof(line)))
			quota = strtod(line, NULL);
		snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", folder);
		if (read_line(path, line, sizeof(line)))
			period = strtod(line, NULL);
	}
	return quota > 0 && period > 0 ? quota / period : 0;
}

/* The smallest quota of the group `path` and of all groups above it; `least` where none is smaller. */
static double smallest_quota(const char *root, const char *controllers, const char *path, double least)
{
	char folder[PATH_TEXT];
	int top = snprintf(folder, sizeof(folder), "%s/sys/fs/cgroup%s%s", root, controllers[0] != '\0' ? "/" : "", controllers);

	if (top < 0 || (size_t)top + strlen(path) >= sizeof(folder))
		return least;
	strcpy(folder + top, path);
	for (;;) {
		double quota = quota_of(folder);
		char *slash = strrchr(folder, '/');
		if (quota > 0 && quota < least)
			least = quota;
		if (slash == NULL || slash < folder + top)
			return least;
		*slash = '\0';
	}
}

static bool names_cpu(const char *controllers)
{
	size_t n;

	for (const char *at = controllers; *at != '\0'; at += n + (at[n] == ',')) {
		n = strcspn(at, ",");
		if (n == 3 && memcmp(at, "cpu", 3) == 0)
			return true;
	}
	return false;
}

int qd_processors(const char *root)
{
	cpu_set_t set;
	char path[PATH_TEXT], line[PATH_TEXT];
	int allowed = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	double least = allowed;
	FILE *groups;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
	groups = fopen(path, "re");
	while (groups != NULL && fgets(line, sizeof(line), groups) != NULL) {
		char *controllers = strchr(line, ':'), *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
		if (group == NULL)
			continue;
		*controllers++ = '\0';
		*group++ = '\0';
		group[strcspn(group, "\n")] = '\0';
		if (controllers[0] != '\0' && !names_cpu(controllers))
			continue;
		least = smallest_quota(root, controllers, group, least);
	}
	if (groups != NULL)
		fclose(groups);
	return least > 1 ? (int)(least + 0.999) : 1;
}
