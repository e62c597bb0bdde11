/* What stands in the place of a BIOS: from reset to 64-bit mode with every vector register on, then
 * to the program, which lies before it in the same ROM and is copied to PROGRAM (test.ld).
 * 64 KB that end at 4 GB. */
#define BASE 0xffff0000
#define SOURCE 0xfffe0000
#define SOURCE_BYTES 0x10000
#define TABLES 0x1000 /* page tables: one of each level above four that map 4 GB in 2 MB pages */
#define STACK 0x90000
#define PROGRAM 0x200000

#define CR4_PAE_OSFXSR_OSXMMEXCPT_OSXSAVE 0x40620
#define EFER 0xc0000080
#define XCR0_AVX 0x07
#define XCR0_AVX512 0xe7

    .text
    .code16
start16:
    cli
    lgdtl %cs:(gdt_pointer - start16)
    movl $0x11, %eax /* protected mode, no emulated floating point */
    movl %eax, %cr0
    ljmpl $0x08, $(BASE + start32 - start16)

    .code32
start32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    movl $TABLES, %edi
    xorl %eax, %eax
    movl $(6 * 1024), %ecx
    rep stosl
    movl $(TABLES + 0x1003), TABLES
    movl $(TABLES + 0x2003), %eax
    movl $(TABLES + 0x1000), %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax
    movl $(TABLES + 0x2000), %edi
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl $CR4_PAE_OSFXSR_OSXMMEXCPT_OSXSAVE, %eax
    movl %eax, %cr4
    movl $TABLES, %eax
    movl %eax, %cr3
    /* AVX-512's registers where the processor has them. */
    movl $0x0d, %eax
    xorl %ecx, %ecx
    cpuid
    andl $XCR0_AVX512, %eax
    cmpl $XCR0_AVX512, %eax
    je 3f
    movl $XCR0_AVX, %eax
3:  xorl %edx, %edx
    xorl %ecx, %ecx
    xsetbv
    movl $EFER, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80000011, %eax
    movl %eax, %cr0
    ljmpl $0x18, $(BASE + start64 - start16)

    .code64
start64:
    movl $SOURCE, %esi
    movl $PROGRAM, %edi
    movl $SOURCE_BYTES, %ecx
    rep movsb
    movl $PROGRAM, %eax
    call *%rax

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff /* code, 32 bits */
    .quad 0x00cf92000000ffff /* data */
    .quad 0x00af9a000000ffff /* code, 64 bits */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long BASE + gdt - start16

    .org 0xfff0
    .code16
    jmp start16
    .org 0x10000
