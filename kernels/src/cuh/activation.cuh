// Activations and gates of feed-forward networks. All keep NaN: a clamp must not hide one.
#pragma once
#include "common.cuh"

// ops::Activation.
enum Activation : int { ACT_SILU = 0, ACT_GELU_TANH = 1, ACT_GELU_ERF = 2 };
// ops::Glu.
enum GluKind : int { GLU_PLAIN = 0, GLU_SWIGLU_OAI = 1, GLU_CLAMPED = 2 };

struct Glu {
  int kind;  // a GluKind
  int act;   // an Activation
  float alpha, limit;
};

// x · sigmoid(s).
DEVICE float mul_sigmoid(float x, float s) { return x / (1.0f + expf(-s)); }

DEVICE float at_most(float x, float limit) { return x > limit ? limit : x; }
DEVICE float at_least(float x, float limit) { return x < limit ? limit : x; }

DEVICE float activate(int act, float x) {
  if (act == ACT_SILU) return mul_sigmoid(x, x);
  if (act == ACT_GELU_ERF) return 0.5f * x * (1.0f + erff(x * 0.707106781f));
  return 0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
}

DEVICE float apply_glu(const Glu& glu, float gate, float up) {
  if (glu.kind == GLU_PLAIN) return activate(glu.act, gate) * up;
  const float clamped = at_least(at_most(up, glu.limit), -glu.limit);
  if (glu.kind == GLU_CLAMPED) return at_most(activate(glu.act, gate), glu.limit) * clamped;
  const float g = at_most(gate, glu.limit);
  return (clamped + 1.0f) * mul_sigmoid(g, glu.alpha * g);
}
