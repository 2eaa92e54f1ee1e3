module nasmig.io/lab

go 1.19
