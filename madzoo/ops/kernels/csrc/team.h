/* Runs one function on several threads at once; the function shares out its work by an atomic counter. */
#ifndef MADZOO_TEAM_H
#define MADZOO_TEAM_H

void madzoo_run_team(void (*work)(void *), void *job, int threads);

#endif
