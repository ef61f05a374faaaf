# Makes proc.json: Rscript proc.R > proc.json, by R's pROC.
suppressMessages(library(pROC))
suppressMessages(library(jsonlite))
set.seed(1)
made <- function(count, share, digits) {
  positive <- c(1, 0, 1, 0, runif(count - 4) < share)
  common <- rnorm(count)
  first <- round(positive * 1.2 + common + rnorm(count), digits)
  second <- round(positive * 0.5 + common + rnorm(count), digits)
  one <- roc(positive, first, direction = "<", quiet = TRUE)
  other <- roc(positive, second, direction = "<", quiet = TRUE)
  of <- function(curve) {
    list(auc = as.numeric(auc(curve)), variance = var(curve, method = "delong"),
         interval = as.numeric(ci.auc(curve, method = "delong"))[c(1, 3)])
  }
  test <- roc.test(one, other, method = "delong", paired = TRUE)
  list(positive = positive, first = first, second = second, of_first = of(one),
       of_second = of(other), z = as.numeric(test$statistic), p = test$p.value)
}
cases <- list(made(40, 0.5, 1), made(60, 0.2, 3), made(25, 0.7, 0))
cat(toJSON(cases, auto_unbox = TRUE, digits = NA), "\n")
