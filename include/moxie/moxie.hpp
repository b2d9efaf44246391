#pragma once

/// The whole library for CPUs. CUDA: moxie/cuda.cuh. Opt-in parts with further needs: moxie/backend/thread_pool.hpp
/// (threads), moxie/backend/thrust_host.hpp (Thrust), moxie/io/*.hpp (files).

#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/priority.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/dispatch/gather.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/gate/linear.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/version.hpp"
