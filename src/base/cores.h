/* SPDX-License-Identifier: Apache-2.0
 *
 * How many processors there are for this process: affinity, the control group's quota, sysfs.
 */
#ifndef BASE_CORES_H
#define BASE_CORES_H

int cores_usable(void);   /* logical CPUs this process may run on, within its control group's quota */
int cores_physical(void); /* physical cores of those: the default number of threads */

#endif
