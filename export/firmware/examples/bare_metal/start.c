/* The least that a Cortex-M needs to reach main(): a vector table, and memory as C expects it. */
#include <stdint.h>
#include <string.h>

extern uint32_t stack_top, data_begin, data_end, data_source, bss_begin, bss_end;
extern void initialise_monitor_handles(void); /* semihosting, of newlib's rdimon */
extern void exit(int code);
int main(void);
void _init(void);
void _fini(void);

/* What newlib's exit() would call of a program with constructors: none here. */
void _init(void) {}
void _fini(void) {}

static void reset(void) {
#if defined(__ARM_FP)
    /* The coprocessor that holds the logits' floats is off after reset. */
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;
    __asm__ volatile("dsb\n isb");
#endif
    memcpy(&data_begin, &data_source, (size_t)((uint8_t *)&data_end - (uint8_t *)&data_begin));
    memset(&bss_begin, 0, (size_t)((uint8_t *)&bss_end - (uint8_t *)&bss_begin));
    initialise_monitor_handles();
    exit(main());
}

static void fault(void) { exit(3); }

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault,
};
