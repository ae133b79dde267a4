// The 32 widths of wgmma m64nNk16 for wgmma.cuh: PTX names every register, so each width needs a text of its own.
#pragma once

#define WGMMA_OUT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_OUT8 WGMMA_OUT(0)
#define WGMMA_OUT16 WGMMA_OUT8, WGMMA_OUT(4)
#define WGMMA_OUT24 WGMMA_OUT16, WGMMA_OUT(8)
#define WGMMA_OUT32 WGMMA_OUT24, WGMMA_OUT(12)
#define WGMMA_OUT40 WGMMA_OUT32, WGMMA_OUT(16)
#define WGMMA_OUT48 WGMMA_OUT40, WGMMA_OUT(20)
#define WGMMA_OUT56 WGMMA_OUT48, WGMMA_OUT(24)
#define WGMMA_OUT64 WGMMA_OUT56, WGMMA_OUT(28)
#define WGMMA_OUT72 WGMMA_OUT64, WGMMA_OUT(32)
#define WGMMA_OUT80 WGMMA_OUT72, WGMMA_OUT(36)
#define WGMMA_OUT88 WGMMA_OUT80, WGMMA_OUT(40)
#define WGMMA_OUT96 WGMMA_OUT88, WGMMA_OUT(44)
#define WGMMA_OUT104 WGMMA_OUT96, WGMMA_OUT(48)
#define WGMMA_OUT112 WGMMA_OUT104, WGMMA_OUT(52)
#define WGMMA_OUT120 WGMMA_OUT112, WGMMA_OUT(56)
#define WGMMA_OUT128 WGMMA_OUT120, WGMMA_OUT(60)
#define WGMMA_OUT136 WGMMA_OUT128, WGMMA_OUT(64)
#define WGMMA_OUT144 WGMMA_OUT136, WGMMA_OUT(68)
#define WGMMA_OUT152 WGMMA_OUT144, WGMMA_OUT(72)
#define WGMMA_OUT160 WGMMA_OUT152, WGMMA_OUT(76)
#define WGMMA_OUT168 WGMMA_OUT160, WGMMA_OUT(80)
#define WGMMA_OUT176 WGMMA_OUT168, WGMMA_OUT(84)
#define WGMMA_OUT184 WGMMA_OUT176, WGMMA_OUT(88)
#define WGMMA_OUT192 WGMMA_OUT184, WGMMA_OUT(92)
#define WGMMA_OUT200 WGMMA_OUT192, WGMMA_OUT(96)
#define WGMMA_OUT208 WGMMA_OUT200, WGMMA_OUT(100)
#define WGMMA_OUT216 WGMMA_OUT208, WGMMA_OUT(104)
#define WGMMA_OUT224 WGMMA_OUT216, WGMMA_OUT(108)
#define WGMMA_OUT232 WGMMA_OUT224, WGMMA_OUT(112)
#define WGMMA_OUT240 WGMMA_OUT232, WGMMA_OUT(116)
#define WGMMA_OUT248 WGMMA_OUT240, WGMMA_OUT(120)
#define WGMMA_OUT256 WGMMA_OUT248, WGMMA_OUT(124)

#define WGMMA_D8 "%0, %1, %2, %3"
#define WGMMA_D16 WGMMA_D8 ", %4, %5, %6, %7"
#define WGMMA_D24 WGMMA_D16 ", %8, %9, %10, %11"
#define WGMMA_D32 WGMMA_D24 ", %12, %13, %14, %15"
#define WGMMA_D40 WGMMA_D32 ", %16, %17, %18, %19"
#define WGMMA_D48 WGMMA_D40 ", %20, %21, %22, %23"
#define WGMMA_D56 WGMMA_D48 ", %24, %25, %26, %27"
#define WGMMA_D64 WGMMA_D56 ", %28, %29, %30, %31"
#define WGMMA_D72 WGMMA_D64 ", %32, %33, %34, %35"
#define WGMMA_D80 WGMMA_D72 ", %36, %37, %38, %39"
#define WGMMA_D88 WGMMA_D80 ", %40, %41, %42, %43"
#define WGMMA_D96 WGMMA_D88 ", %44, %45, %46, %47"
#define WGMMA_D104 WGMMA_D96 ", %48, %49, %50, %51"
#define WGMMA_D112 WGMMA_D104 ", %52, %53, %54, %55"
#define WGMMA_D120 WGMMA_D112 ", %56, %57, %58, %59"
#define WGMMA_D128 WGMMA_D120 ", %60, %61, %62, %63"
#define WGMMA_D136 WGMMA_D128 ", %64, %65, %66, %67"
#define WGMMA_D144 WGMMA_D136 ", %68, %69, %70, %71"
#define WGMMA_D152 WGMMA_D144 ", %72, %73, %74, %75"
#define WGMMA_D160 WGMMA_D152 ", %76, %77, %78, %79"
#define WGMMA_D168 WGMMA_D160 ", %80, %81, %82, %83"
#define WGMMA_D176 WGMMA_D168 ", %84, %85, %86, %87"
#define WGMMA_D184 WGMMA_D176 ", %88, %89, %90, %91"
#define WGMMA_D192 WGMMA_D184 ", %92, %93, %94, %95"
#define WGMMA_D200 WGMMA_D192 ", %96, %97, %98, %99"
#define WGMMA_D208 WGMMA_D200 ", %100, %101, %102, %103"
#define WGMMA_D216 WGMMA_D208 ", %104, %105, %106, %107"
#define WGMMA_D224 WGMMA_D216 ", %108, %109, %110, %111"
#define WGMMA_D232 WGMMA_D224 ", %112, %113, %114, %115"
#define WGMMA_D240 WGMMA_D232 ", %116, %117, %118, %119"
#define WGMMA_D248 WGMMA_D240 ", %120, %121, %122, %123"
#define WGMMA_D256 WGMMA_D248 ", %124, %125, %126, %127"

// Behind the N / 2 accumulators come A and B as descriptors %r0 and %r1 and the flag %r2; or A as registers
// %r0..%r3, B as %r4 and the flag as %r5.
#define WGMMA_SHAPE(N, r0, r1, r2, r3, r4, r5)                                                              \
  DEVICE void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true) {               \
    asm volatile(                                                                                           \
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #r2 ", 0;\n"                                 \
        "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_D##N "}, %" #r0 ", %" #r1        \
        ", accumulate, 1, 1, 0, 0;\n}"                                                                      \
        : WGMMA_OUT##N                                                                                      \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                               \
  }                                                                                                         \
  DEVICE void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true) {   \
    asm volatile(                                                                                           \
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #r5 ", 0;\n"                                 \
        "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_D##N "}, {%" #r0 ", %" #r1       \
        ", %" #r2 ", %" #r3 "}, %" #r4 ", accumulate, 1, 1, 0;\n}"                                          \
        : WGMMA_OUT##N                                                                                      \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));           \
  }                                                                                                         \
  DEVICE void wgmma_bf16_by_rows(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) {                   \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_D##N "}, {%" #r0        \
                 ", %" #r1 ", %" #r2 ", %" #r3 "}, %" #r4 ", 1, 1, 1, 1;"                                   \
                 : WGMMA_OUT##N                                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                     \
  }
WGMMA_SHAPE(8, 4, 5, 6, 7, 8, 9)
WGMMA_SHAPE(16, 8, 9, 10, 11, 12, 13)
WGMMA_SHAPE(24, 12, 13, 14, 15, 16, 17)
WGMMA_SHAPE(32, 16, 17, 18, 19, 20, 21)
WGMMA_SHAPE(40, 20, 21, 22, 23, 24, 25)
WGMMA_SHAPE(48, 24, 25, 26, 27, 28, 29)
WGMMA_SHAPE(56, 28, 29, 30, 31, 32, 33)
WGMMA_SHAPE(64, 32, 33, 34, 35, 36, 37)
WGMMA_SHAPE(72, 36, 37, 38, 39, 40, 41)
WGMMA_SHAPE(80, 40, 41, 42, 43, 44, 45)
WGMMA_SHAPE(88, 44, 45, 46, 47, 48, 49)
WGMMA_SHAPE(96, 48, 49, 50, 51, 52, 53)
WGMMA_SHAPE(104, 52, 53, 54, 55, 56, 57)
WGMMA_SHAPE(112, 56, 57, 58, 59, 60, 61)
WGMMA_SHAPE(120, 60, 61, 62, 63, 64, 65)
WGMMA_SHAPE(128, 64, 65, 66, 67, 68, 69)
WGMMA_SHAPE(136, 68, 69, 70, 71, 72, 73)
WGMMA_SHAPE(144, 72, 73, 74, 75, 76, 77)
WGMMA_SHAPE(152, 76, 77, 78, 79, 80, 81)
WGMMA_SHAPE(160, 80, 81, 82, 83, 84, 85)
WGMMA_SHAPE(168, 84, 85, 86, 87, 88, 89)
WGMMA_SHAPE(176, 88, 89, 90, 91, 92, 93)
WGMMA_SHAPE(184, 92, 93, 94, 95, 96, 97)
WGMMA_SHAPE(192, 96, 97, 98, 99, 100, 101)
WGMMA_SHAPE(200, 100, 101, 102, 103, 104, 105)
WGMMA_SHAPE(208, 104, 105, 106, 107, 108, 109)
WGMMA_SHAPE(216, 108, 109, 110, 111, 112, 113)
WGMMA_SHAPE(224, 112, 113, 114, 115, 116, 117)
WGMMA_SHAPE(232, 116, 117, 118, 119, 120, 121)
WGMMA_SHAPE(240, 120, 121, 122, 123, 124, 125)
WGMMA_SHAPE(248, 124, 125, 126, 127, 128, 129)
WGMMA_SHAPE(256, 128, 129, 130, 131, 132, 133)
