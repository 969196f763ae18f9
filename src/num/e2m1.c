/* SPDX-License-Identifier: Apache-2.0
 *
 * The sixteen values of E2M1, by code. The one table behind every FP4 format's reference decoder; kernels
 * that keep their own are tested against what is decoded with it.
 */
#include "num/e2m1.h"

const float e2m1_values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
